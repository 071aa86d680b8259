"""Focal weighting of binary losses, in the form of YOLOv5.

Focal loss is eq. 5 of arXiv 1708.02002 with soft targets allowed; quality focal loss is eq. 4 of arXiv 2006.04388,
with the balance alpha kept.
"""

from typing import Any

from torch import Tensor

from mmyolo_ext.models.losses.class_target import ClassTarget
from mmyolo_ext.models.losses.wrapped_loss import WrappedLoss
from mmyolo_ext.registry import MODELS

# below it a power with an exponent under 1 has no finite slope
LEAST_DISTANCE = 1e-9


@MODELS.register_module()
class FocalLoss(WrappedLoss):
    """loss * (y alpha + (1 - y)(1 - alpha)) * (1 - p_t)^gamma, with p_t = y p + (1 - y)(1 - p).

    p is the predicted probability, y the target; the gradient runs through the factor too.

    Args:
        loss: a binary loss on logits.
        gamma: 0 or more; how fast well-told elements lose weight.
        alpha: from 0 to 1, the share of the positive side.
        use_sigmoid: see :class:`WrappedLoss`.
        reduction: see there.
        **inherited: see there.

    Raises:
        ValueError: a number out of its range, or a loss on a softmax, for which this factor is not defined.
    """

    def __init__(
        self,
        loss: dict,
        gamma: float = 1.5,
        alpha: float = 0.25,
        use_sigmoid: bool | None = None,
        reduction: str = 'mean',
        **inherited: Any,
    ) -> None:
        super().__init__(loss, use_sigmoid, reduction, **inherited)
        if not self.use_sigmoid:
            raise ValueError(
                f'{type(self).__name__} weighs each class by itself; {type(self.loss).__name__} here is a softmax '
                'over the classes. Wrap a binary loss: mmyolo_ext.BCELoss, or mmdet.CrossEntropyLoss(use_sigmoid=True)'
            )
        if gamma < 0:
            raise ValueError(f'gamma must be 0 or more, got {gamma}')
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha must be from 0 to 1, got {alpha}')
        self.gamma = gamma
        self.alpha = alpha

    def factor(self, logits: Tensor, target: ClassTarget) -> Tensor:
        """Small where the element is told well, see the class."""
        wanted, told = target.target, logits.sigmoid()
        balance = wanted * self.alpha + (1 - wanted) * (1 - self.alpha)
        return balance * self.distance(wanted, told).clamp(min=LEAST_DISTANCE) ** self.gamma

    def distance(self, wanted: Tensor, told: Tensor) -> Tensor:
        """How far a probability is from its target: 1 - p_t."""
        return 1 - (wanted * told + (1 - wanted) * (1 - told))


@MODELS.register_module()
class QualityFocalLoss(FocalLoss):
    """As :class:`FocalLoss` with |y - p|^gamma: an element told exactly counts nothing, whatever its target."""

    def distance(self, wanted: Tensor, told: Tensor) -> Tensor:
        """|y - p|."""
        return (wanted - told).abs()
