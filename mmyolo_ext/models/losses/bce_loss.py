"""Binary cross-entropy on logits, element by element, against soft targets."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmyolo_ext.models.losses.class_target import read_target
from mmyolo_ext.models.losses.host_call import check_reduction, reduce_elements
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class BCELoss(nn.Module):
    """Binary cross-entropy of logits against targets in [0, 1], or class indices.

    Unlike mmdet's ``CrossEntropyLoss(use_sigmoid=True)`` no value of a target means "ignore", and a weight per class
    and one of its positive part are two things.

    Args:
        pos_weight: factor on the positive part, a number or one per class.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: gain on the result.
        class_weight: factor on both parts of each class.
        use_sigmoid: True; for mmdet's heads, which read it from the config of their class loss: write it there, or
            they add a background class.

    Raises:
        ValueError: unknown ``reduction``, ``use_sigmoid`` off, or a negative weight.
    """

    use_sigmoid = True

    def __init__(
        self,
        pos_weight: float | Sequence[float] | None = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        class_weight: Sequence[float] | None = None,
        use_sigmoid: bool = True,
    ) -> None:
        super().__init__()
        check_reduction(reduction)
        if not use_sigmoid:
            raise ValueError(
                'BCELoss is a loss on a sigmoid; for exclusive classes use mmdet.CrossEntropyLoss(use_sigmoid=False)'
            )
        self.register_buffer('pos_weight', _weights('pos_weight', pos_weight), persistent=False)
        self.register_buffer('class_weight', _weights('class_weight', class_weight), persistent=False)
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor | tuple[Tensor, Tensor],
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of logits ``pred`` against ``target``.

        Args:
            pred: (..., C) logits; half precision is raised to float32.
            target: see :func:`.class_target.read_target`.
            weight: one per element or per sample.
            avg_factor: divisor in place of the number of elements.
            reduction_override: takes the place of ``reduction`` for this call.

        Returns:
            A scalar, or the shape of ``pred`` without reduction.

        Raises:
            ValueError: the target's form is unknown, or the weights are not one per class.
        """
        logits = pred if pred.dtype == torch.float64 else pred.float()
        for name in ('pos_weight', 'class_weight'):
            _check_length(name, getattr(self, name), logits)
        target = read_target(logits, target, use_sigmoid=True).target
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.pos_weight, reduction='none')
        if self.class_weight is not None:
            loss = loss * self.class_weight
        return self.loss_weight * reduce_elements(loss, weight, reduction_override or self.reduction, avg_factor)


def _weights(name: str, values: float | Sequence[float] | None) -> Tensor | None:
    if values is None:
        return None
    weights = torch.as_tensor(values, dtype=torch.float32)
    if (weights < 0).any():
        raise ValueError(f'{name} must not be negative, got {values}')
    return weights


def _check_length(name: str, weights: Tensor | None, logits: Tensor) -> None:
    if weights is not None and weights.numel() > 1 and weights.shape != logits.shape[-1:]:
        raise ValueError(f'{name} has {weights.numel()} numbers, the logits have {logits.shape[-1]} classes')
