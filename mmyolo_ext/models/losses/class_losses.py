"""Losses of class and objectness logits: binary cross-entropy, and the focal and slide wrappers around any loss.

Letters: N samples, C classes.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmyolo_ext.boxes import at_least_float32
from mmyolo_ext.models.losses.utils import (
    UNKNOWN_MEAN,
    Quality,
    ReducedLoss,
    call_loss,
    check_loss,
    mean_quality,
)
from mmyolo_ext.registry import MODELS

# below it a power with an exponent under 1 has no finite slope
LEAST_DISTANCE = 1e-9
# of the slide weight
LEAST_MEAN = 0.2
MARGIN = 0.1

Target = Tensor | tuple[Tensor, Tensor]


def read_target(logits: Tensor, target: Target, use_sigmoid: bool) -> tuple[Tensor, Quality]:
    """Convert the targets of mmdet's heads and of ours to those of an element-wise loss.

    Args:
        logits: (N, C), or of any shape with a target of the same.
        target: A value in [0, 1] for each logit; or class indices (N,), where C or more is background; or a tuple of
            indices and the quality of each sample (N,), as for quality focal loss, which is the target of the class.
        use_sigmoid: Whether classes are independent; a softmax takes indices as they are.

    Returns:
        Targets of the shape of the logits; for a softmax indices (N,) or probabilities (N, C). And the quality that
        the target implies.

    Raises:
        ValueError: If the target has none of these forms.
    """
    unknown = Quality(None, logits.new_full((), UNKNOWN_MEAN))
    if isinstance(target, tuple | list):
        labels, scores = target
        is_object = (labels >= 0) & (labels < logits.shape[-1])
        target = _one_hot(labels, logits) * scores[:, None].to(logits.dtype) if use_sigmoid else labels
        return target, Quality(scores, mean_quality(scores, is_object))
    if target.shape == logits.shape:
        if not use_sigmoid:  # a probability is no quality of a box
            return target.to(logits.dtype), unknown
        # as for varifocal loss: the quality in the column of the class, 0 elsewhere
        values = target.amax(-1) if target.dim() > 1 else target
        return target.to(logits.dtype), Quality(values, mean_quality(values, values > 0))
    if target.shape == logits.shape[:-1] and not target.is_floating_point():
        return _one_hot(target, logits) if use_sigmoid else target, unknown
    raise ValueError(
        f'the target of logits of shape {tuple(logits.shape)} must be values in [0, 1] of that shape, class indices '
        f'of shape {tuple(logits.shape[:-1])}, or a tuple of indices and qualities; got {target.dtype} of shape '
        f'{tuple(target.shape)}'
    )


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """(N,) -> (N, C), rows of zeros for background."""
    num_classes = logits.shape[-1]
    return F.one_hot(labels.long().clamp(max=num_classes), num_classes + 1)[..., :num_classes].to(logits.dtype)


@MODELS.register_module()
class BCELoss(ReducedLoss):
    """Binary cross-entropy of logits against targets in [0, 1], or class indices.

    Unlike in mmdet's ``CrossEntropyLoss(use_sigmoid=True)`` no target means "ignore", and the weight of a class is
    separate from the weight of its positive part.

    Args:
        pos_weight: Factor of the positive part, a number or one per class.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Gain.
        class_weight: Factor of both parts of each class.
        use_sigmoid: True. mmdet's heads read it from the config of their class loss: write it there, or they add a
            background class.

    Raises:
        ValueError: If ``reduction`` is unknown or ``use_sigmoid`` is off.
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
        super().__init__(reduction, loss_weight)
        if not use_sigmoid:
            raise ValueError(
                'BCELoss is a loss on a sigmoid; for exclusive classes use mmdet.CrossEntropyLoss(use_sigmoid=False)'
            )
        for name, values in (('pos_weight', pos_weight), ('class_weight', class_weight)):
            weights = None if values is None else torch.as_tensor(values, dtype=torch.float32)
            self.register_buffer(name, weights, persistent=False)

    def elements(self, pred: Tensor, target: Target, weight: Tensor | None) -> Tensor:
        """Return the loss (..., C) of logits ``pred``, raised to float32, against ``target``."""
        logits = at_least_float32(pred)
        if not isinstance(target, Tensor) or target.shape != logits.shape:
            target, _ = read_target(logits, target, use_sigmoid=True)
        target = target.to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, target, pos_weight=self.pos_weight, reduction='none')
        return loss if self.class_weight is None else loss * self.class_weight


class WrappedLoss(ReducedLoss):
    """factor * loss, element by element, then the reduction. Subclasses define the factor.

    The wrapped loss keeps its gain, class weights and positive weights; it may itself be a wrapper.

    Args:
        loss: Config of an element-wise loss on logits, ours or mmdet's.
        use_sigmoid: That of the wrapped loss. mmdet's heads read it from the config of their class loss: write
            ``use_sigmoid=True`` there, or they add a background class.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.

    Raises:
        ValueError: If ``reduction`` is unknown, or ``use_sigmoid`` differs from that of the wrapped loss.
    """

    wants = ('quality',)

    def __init__(self, loss: dict, use_sigmoid: bool | None = None, reduction: str = 'mean') -> None:
        super().__init__(reduction)
        self.loss = MODELS.build(loss)
        check_loss('loss', self.loss)
        self.use_sigmoid = getattr(self.loss, 'use_sigmoid', True)
        if use_sigmoid not in (None, self.use_sigmoid):
            raise ValueError(
                f'{type(self).__name__} has use_sigmoid={use_sigmoid}, the {type(self.loss).__name__} it wraps '
                f'{self.use_sigmoid}: set it there, and here to the same or not at all'
            )

    def factor(self, logits: Tensor, target: Tensor, quality: Quality) -> Tensor:
        """Return the factor of each element, broadcastable to the elements."""
        raise NotImplementedError

    def elements(self, pred: Tensor, target: Target, weight: Tensor | None, quality: Quality | None = None) -> Tensor:
        """Return the loss (N, C), or (N,) for a softmax, of logits ``pred`` (N, C), raised to float32.

        ``quality`` says how well the boxes of the samples fit; by default as the target implies.

        Raises:
            ValueError: If the target has an unknown form, or the wrapped loss is not element-wise.
        """
        logits = at_least_float32(pred)
        target, implied = read_target(logits, target, self.use_sigmoid)
        quality = quality or implied
        elements = call_loss(self.loss, logits, target, reduction_override='none', quality=quality)
        expected = logits.shape if self.use_sigmoid else logits.shape[:-1]
        if elements.shape != expected:
            raise ValueError(
                f'{type(self).__name__} wraps an element-wise loss; {type(self.loss).__name__} returned shape '
                f'{tuple(elements.shape)} for logits of shape {tuple(logits.shape)}, expected {tuple(expected)}'
            )
        return elements * self.factor(logits, target, quality)


@MODELS.register_module()
class FocalLoss(WrappedLoss):
    """loss * (y alpha + (1 - y)(1 - alpha)) * (1 - p_t)^gamma, with p_t = y p + (1 - y)(1 - p).

    p is the predicted probability, y the target; the gradient passes through the factor. This is eq. 5 of arXiv
    1708.02002 for soft targets, in the form of YOLOv5.

    Args:
        loss: A binary loss on logits.
        gamma: 0 or more; how fast well-predicted elements lose weight.
        alpha: From 0 to 1, the share of the positive side.
        **kwargs: Arguments of :class:`WrappedLoss`.

    Raises:
        ValueError: If ``alpha`` is out of range or the loss is a softmax, for which the factor is not defined.
    """

    def __init__(self, loss: dict, gamma: float = 1.5, alpha: float = 0.25, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        if not self.use_sigmoid:
            raise ValueError(
                f'{type(self).__name__} needs a binary loss such as mmyolo_ext.BCELoss or '
                f'mmdet.CrossEntropyLoss(use_sigmoid=True); {type(self.loss).__name__} here is a softmax'
            )
        if not 0 <= alpha <= 1:
            raise ValueError(f'alpha must be from 0 to 1, got {alpha}')
        self.gamma = gamma
        self.alpha = alpha

    def factor(self, logits: Tensor, target: Tensor, quality: Quality) -> Tensor:
        """Return the factor, small where the prediction is close to the target."""
        balance = target * self.alpha + (1 - target) * (1 - self.alpha)
        return balance * self.distance(target, logits.sigmoid()).clamp(min=LEAST_DISTANCE) ** self.gamma

    def distance(self, target: Tensor, probability: Tensor) -> Tensor:
        """Return 1 - p_t."""
        return 1 - (target * probability + (1 - target) * (1 - probability))


@MODELS.register_module()
class QualityFocalLoss(FocalLoss):
    """:class:`FocalLoss` with ``|y - p|^gamma`` (eq. 4 of arXiv 2006.04388, with alpha): 0 for an exact prediction."""

    def distance(self, target: Tensor, probability: Tensor) -> Tensor:
        """Return ``|y - p|``."""
        return (target - probability).abs()


@torch.no_grad()
def slide_weight(values: Tensor, mean: Tensor) -> Tensor:
    """Return 1 up to ``mean`` - 0.1, exp(1 - ``mean``) from there to ``mean``, then exp(1 - value), which ends at 1.

    Args:
        values: In [0, 1], any shape; raised to float32.
        mean: Scalar, at least 0.2 is used.

    Returns:
        Weights of the shape of ``values``, without gradient.

    >>> slide_weight(torch.tensor([0.4, 0.45, 0.5, 1.0]), torch.tensor(0.5))
    tensor([1.0000, 1.6487, 1.6487, 1.0000])
    """
    # bfloat16 resolves two to three digits, and the plateau is 0.1 wide
    values, mean = at_least_float32(values), at_least_float32(mean).clamp(min=LEAST_MEAN)
    below = torch.where(values > mean - MARGIN, (1 - mean).exp(), torch.ones_like(values))
    return torch.where(values >= mean, (1 - values).exp(), below)


@MODELS.register_module()
class SlideLoss(WrappedLoss):
    """slide_weight * loss (arXiv 2208.02019, eq. 5): elements about as hard as the mean count most.

    The mean is that of the quality of objects: in ``YOLOv5Head`` the mean CIoU of the positives of the level; in
    mmdet's heads whose target has a quality (quality focal, varifocal loss) the mean of that; else 0.5.

    A target of 0 or 1 weighs 1 whatever the mean. So on hard class targets (one-hot, no smoothing)
    ``follow='target'`` changes nothing: it acts on objectness, whose target is the CIoU, and on soft class targets.

    Args:
        loss: Element-wise, on a sigmoid or a softmax.
        follow: What the weight depends on. ``'target'``: the target of each element. ``'quality'``: the quality of the
            box of the sample, the same for all its classes, 1 if the head provides none. None: the target for a
            sigmoid, the quality for a softmax.
        **kwargs: Arguments of :class:`WrappedLoss`.

    Raises:
        ValueError: If ``follow`` is unknown, or ``'target'`` for a softmax.
    """

    def __init__(self, loss: dict, follow: str | None = None, **kwargs: Any) -> None:
        super().__init__(loss, **kwargs)
        allowed = ('target', 'quality') if self.use_sigmoid else ('quality',)
        self.follow = follow or allowed[0]
        if self.follow not in allowed:
            raise ValueError(f'follow must be one of {allowed} for {type(self.loss).__name__}, got {follow!r}')

    def factor(self, logits: Tensor, target: Tensor, quality: Quality) -> Tensor:
        """Return the slide weight of each element, or of each sample."""
        if self.follow == 'target':
            return slide_weight(target, quality.mean)
        if quality.values is None:
            return logits.new_ones(())
        weight = slide_weight(quality.values, quality.mean)
        return weight[:, None] if self.use_sigmoid and logits.dim() > 1 else weight
