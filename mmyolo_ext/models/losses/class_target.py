"""What a class loss is taught, read from any form in which mmdet's heads give it.

Letters: N samples, C classes.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

MeanOverRanks = Callable[[Tensor], Tensor]
# the mean quality where nothing tells it
UNKNOWN_MEAN = 0.5


class Quality(NamedTuple):
    """How well the boxes of the samples fit.

    Attributes:
        values: (N,) in [0, 1], 0 for background; None where the head does not tell.
        mean: scalar, over the objects among them.
    """

    values: Tensor | None
    mean: Tensor


class ClassTarget(NamedTuple):
    """Target of a class loss.

    Attributes:
        target: of the shape of the logits for a sigmoid; class indices (N,), or a row of shares for each sample
            (N, C), for a softmax.
        quality: of the samples' boxes.
    """

    target: Tensor
    quality: Quality


def mean_quality(values: Tensor, valid: Tensor | None = None, mean_over_ranks: MeanOverRanks | None = None) -> Tensor:
    """Return the mean over valid objects, of all ranks with ``mean_over_ranks``; 0.5 without any. (N,) -> scalar."""
    if mean_over_ranks is not None:
        return _masked_mean(values, torch.ones_like(values) if valid is None else valid, mean_over_ranks)
    if valid is not None:
        return _masked_mean(values, valid)
    return values.mean() if len(values) else values.new_full((), UNKNOWN_MEAN)


def read_target(
    logits: Tensor, target: Tensor | tuple[Tensor, Tensor], use_sigmoid: bool, quality: Quality | None = None
) -> ClassTarget:
    """Bring a target into the one form that an element-wise loss takes.

    Args:
        logits: (N, C), or of any shape with a target of the same.
        target: a value in [0, 1] for every logit; or class indices (N,), where C or more is background; or a tuple of
            those and each sample's quality (N,), as mmdet's heads with quality focal loss give it, which then is the
            target of the sample's class.
        use_sigmoid: whether each class is a question of its own; else indices are left as they are.
        quality: what the head knows of it; read from the target if None.

    Raises:
        ValueError: the target has none of these forms.
    """
    unknown = Quality(None, logits.new_full((), UNKNOWN_MEAN))
    if isinstance(target, tuple | list):
        labels, scores = target
        target = _one_hot(labels, logits) * scores[:, None].to(logits.dtype) if use_sigmoid else labels
        return ClassTarget(target, quality or _quality_of_labels(labels, scores, logits.shape[-1]))
    if target.shape == logits.shape:
        # a row of shares for a softmax says how sure a label is, not how well a box fits
        return ClassTarget(target.to(logits.dtype), quality or (_quality_of_rows(target) if use_sigmoid else unknown))
    if target.shape == logits.shape[:-1] and not target.is_floating_point():
        return ClassTarget(_one_hot(target, logits) if use_sigmoid else target, quality or unknown)
    raise ValueError(
        f'the target of logits of shape {tuple(logits.shape)} must be of that shape with values in [0, 1], or class '
        f'indices of shape {tuple(logits.shape[:-1])}, or a tuple of those and the quality of each; got '
        f'{target.dtype} of shape {tuple(target.shape)}'
    )


def _one_hot(labels: Tensor, logits: Tensor) -> Tensor:
    """(N,) -> (N, C), rows of zeros for background."""
    num_classes = logits.shape[-1]
    return F.one_hot(labels.long().clamp(max=num_classes), num_classes + 1)[..., :num_classes].to(logits.dtype)


def _quality_of_labels(labels: Tensor, scores: Tensor, num_classes: int) -> Quality:
    is_object = (labels >= 0) & (labels < num_classes)
    return Quality(scores, _masked_mean(scores, is_object))


def _quality_of_rows(rows: Tensor) -> Quality:
    """As heads with varifocal loss mean it: the quality in the column of the class, 0 elsewhere."""
    values = rows.amax(-1) if rows.dim() > 1 else rows
    return Quality(values, _masked_mean(values, values > 0))


def _masked_mean(values: Tensor, mask: Tensor, mean_over_ranks: MeanOverRanks | None = None) -> Tensor:
    # no branch on the number of objects: a GPU would have to be waited for
    total, count = (values.float() * mask).sum(), mask.sum()
    if mean_over_ranks is not None:
        total, count = mean_over_ranks(torch.stack([total, count.float()]))
    mean = total / torch.where(count > 0, count, torch.ones_like(count))
    return torch.where(count > 0, mean, torch.full_like(mean, UNKNOWN_MEAN))
