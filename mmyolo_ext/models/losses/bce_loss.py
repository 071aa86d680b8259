"""Binary cross-entropy on logits, element by element, against soft targets."""

import torch
import torch.nn.functional as F
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class BCELoss(nn.Module):
    """Binary cross-entropy of logits against targets in [0, 1] of the same shape.

    Unlike mmdet's ``CrossEntropyLoss(use_sigmoid=True)`` it takes targets as they are: no index is expanded, no value
    means "ignore".

    Args:
        pos_weight: factor on the positive part, a number or one per class.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: gain on the result.
    """

    use_sigmoid = True

    def __init__(
        self,
        pos_weight: float | list[float] | None = None,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        self.register_buffer('pos_weight', _as_tensor(pos_weight), persistent=False)
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of logits ``pred`` against ``target``.

        Args:
            pred: (..., C) logits; half precision is raised to float32.
            target: (..., C) in [0, 1].
            weight: broadcastable to ``pred``.
            avg_factor: divisor in place of the number of elements.
            reduction_override: takes the place of ``reduction`` for this call.

        Returns:
            A scalar, or the shape of ``pred`` without reduction.

        Raises:
            ValueError: the shapes of ``pred`` and ``target`` differ.
        """
        if pred.shape != target.shape:
            raise ValueError(
                f'BCELoss takes a target in [0, 1] for every logit: logits are {tuple(pred.shape)}, targets '
                f'{tuple(target.shape)}. Expand class indices to one-hot first.'
            )
        pred = pred if pred.dtype == torch.float64 else pred.float()
        loss = F.binary_cross_entropy_with_logits(
            pred, target.to(pred.dtype), pos_weight=self.pos_weight, reduction='none'
        )
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)


def _as_tensor(pos_weight: float | list[float] | None) -> Tensor | None:
    return None if pos_weight is None else torch.as_tensor(pos_weight, dtype=torch.float32)
