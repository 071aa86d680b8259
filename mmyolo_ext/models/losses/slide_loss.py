"""Slide weighting: elements about as hard as the mean count most (arXiv 2208.02019, eq. 5)."""

from typing import Any

import torch
from torch import Tensor

from mmyolo_ext.boxes import at_least_float32
from mmyolo_ext.models.losses.class_target import ClassTarget
from mmyolo_ext.models.losses.wrapped_loss import WrappedLoss
from mmyolo_ext.registry import MODELS

LEAST_MEAN = 0.2
MARGIN = 0.1
FOLLOWS = ('target', 'quality')


@torch.no_grad()
def slide_weight(values: Tensor, mean: Tensor) -> Tensor:
    """1 up to ``mean`` - 0.1, exp(1 - ``mean``) from there to ``mean``, then exp(1 - value), which ends at 1.

    Args:
        values: in [0, 1], any shape; half precision is raised to float32.
        mean: scalar; counts as 0.2 at least.

    Returns:
        Of the shape of ``values``, without gradient.

    >>> slide_weight(torch.tensor([0.4, 0.45, 0.5, 1.0]), torch.tensor(0.5))
    tensor([1.0000, 1.6487, 1.6487, 1.0000])
    """
    # bfloat16 knows two to three digits, and the plateau is 0.1 wide
    values, mean = at_least_float32(values), at_least_float32(mean).clamp(min=LEAST_MEAN)
    below = torch.where(values > mean - MARGIN, (1 - mean).exp(), torch.ones_like(values))
    return torch.where(values >= mean, (1 - values).exp(), below)


@MODELS.register_module()
class SlideLoss(WrappedLoss):
    """slide_weight * loss; the weight passes no gradient.

    The mean is that of the quality of the objects: in ``YOLOv5Head`` the mean CIoU of the level's positives; in
    mmdet's heads that give a quality with the target (as for quality focal or varifocal loss) the mean of that; 0.5
    where nothing tells it.

    A target of 0 or 1 weighs 1 whatever the mean. So on hard class targets (one-hot, no smoothing) ``follow='target'``
    changes nothing: it acts on the objectness, whose target is the CIoU, and on classes taught a quality.

    Args:
        loss: element-wise, on a sigmoid or a softmax.
        follow: what the weight is a function of. ``'target'``: each element's own target; ``'quality'``: the quality
            of the sample's box, one weight for all its classes, 1 where the head tells none. None: the target under a
            sigmoid, the quality under a softmax, where a sample is one element and its class has a target of 1.
        use_sigmoid: see :class:`WrappedLoss`.
        reduction: see there.
        **inherited: see there.

    Raises:
        ValueError: unknown ``follow``, or ``'target'`` for a softmax.
    """

    def __init__(
        self,
        loss: dict,
        follow: str | None = None,
        use_sigmoid: bool | None = None,
        reduction: str = 'mean',
        **inherited: Any,
    ) -> None:
        super().__init__(loss, use_sigmoid, reduction, **inherited)
        follow = follow or ('target' if self.use_sigmoid else 'quality')
        if follow not in FOLLOWS:
            raise ValueError(f'follow must be one of {FOLLOWS} or None, got {follow!r}')
        if follow == 'target' and not self.use_sigmoid:
            raise ValueError("follow='target' needs a target for each class: a softmax can follow 'quality' alone")
        self.follow = follow

    def factor(self, logits: Tensor, target: ClassTarget) -> Tensor:
        """The slide weight of each element, or of each sample."""
        quality = target.quality
        if self.follow == 'target':
            return slide_weight(target.target, quality.mean)
        if quality.values is None:
            return logits.new_ones(())
        weight = slide_weight(quality.values, quality.mean)
        return weight[:, None] if self.use_sigmoid and logits.dim() > 1 else weight
