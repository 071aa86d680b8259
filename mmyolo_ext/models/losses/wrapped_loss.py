"""The base of losses that weigh the elements of another loss."""

from typing import Any

import torch
from torch import Tensor, nn

from mmyolo_ext.models.losses.class_target import ClassTarget, Quality, read_target
from mmyolo_ext.models.losses.host_call import call_loss, check_reduction, reduce_elements
from mmyolo_ext.registry import MODELS


class WrappedLoss(nn.Module):
    """factor * loss, element by element, then the reduction.

    The wrapped loss keeps its gain, its class weights and its positive weight; it may itself be a wrapper, to any
    depth. A subclass says what the factor is.

    Args:
        loss: config of an element-wise loss on logits: ours, or one of mmdet such as ``CrossEntropyLoss``.
        use_sigmoid: what the wrapped loss says anyway, for mmdet's heads, which read it from the config of their class
            loss: write ``use_sigmoid=True`` there, or they add a background class.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        **inherited: nothing; a config that replaces a plain loss by a wrapper inherits that loss's options, unless it
            says ``_delete_=True``.

    Raises:
        ValueError: unknown ``reduction``, ``use_sigmoid`` differs from the wrapped loss's, or an option too many.
    """

    wants = ('quality',)

    def __init__(self, loss: dict, use_sigmoid: bool | None = None, reduction: str = 'mean', **inherited: Any) -> None:
        super().__init__()
        if inherited:
            raise ValueError(
                f'{type(self).__name__} takes no {sorted(inherited)}: gains and weights belong into the config of the '
                'loss it wraps. If they come from a base config, add _delete_=True to replace it whole'
            )
        check_reduction(reduction)
        self.loss = MODELS.build(loss)
        self.use_sigmoid = getattr(self.loss, 'use_sigmoid', True)
        if use_sigmoid not in (None, self.use_sigmoid):
            raise ValueError(
                f'{type(self).__name__} has use_sigmoid={use_sigmoid}, the loss it wraps, {type(self.loss).__name__}, '
                f'use_sigmoid={self.use_sigmoid}: set it there, and here to the same or not at all'
            )
        self.reduction = reduction

    @property
    def loss_weight(self) -> float:
        """The gain, which is that of the wrapped loss."""
        return self.loss.loss_weight

    def factor(self, logits: Tensor, target: ClassTarget) -> Tensor:
        """What each element is multiplied by, broadcastable to the elements."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        quality: Quality | None = None,
    ) -> Tensor:
        """Loss of logits against targets.

        Args:
            pred: (N, C) logits; half precision is raised to float32.
            target: see :func:`.class_target.read_target`.
            weight: one per element or per sample.
            avg_factor: divisor in place of the number of elements.
            reduction_override: takes the place of ``reduction`` for this call.
            quality: how well the samples' boxes fit, if the head knows it apart from the target.

        Returns:
            A scalar; without reduction (N, C), or for a softmax (N,).

        Raises:
            ValueError: the target's form is unknown, or the wrapped loss is not element-wise.
        """
        logits = pred if pred.dtype == torch.float64 else pred.float()
        target = read_target(logits, target, self.use_sigmoid, quality)
        elements = self._elements(logits, target)
        return reduce_elements(
            elements * self.factor(logits, target), weight, reduction_override or self.reduction, avg_factor
        )

    def _elements(self, logits: Tensor, target: ClassTarget) -> Tensor:
        offers = {'quality': target.quality}
        elements = call_loss(self.loss, logits, target.target, offers, reduction_override='none')
        expected = logits.shape if self.use_sigmoid else logits.shape[:-1]
        if not isinstance(elements, Tensor) or elements.shape != expected:
            got = tuple(elements.shape) if isinstance(elements, Tensor) else type(elements).__name__
            raise ValueError(
                f'{type(self).__name__} wraps an element-wise loss; of logits {tuple(logits.shape)} '
                f'{type(self.loss).__name__} gave {got} in place of {tuple(expected)}'
            )
        return elements
