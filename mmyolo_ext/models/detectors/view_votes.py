"""What several views of a picture say of it together.

Letters: V views, K detections of all views, G groups of detections that mean one object.
"""

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.boxes import at_least_float32
from mmyolo_ext.models.heads.suppression import suppress_duplicates


def vote(views: Sequence[InstanceData], iou_threshold: float) -> InstanceData:
    """One detection for each object that any view has found: where and how sure the views are on the average.

    Suppression by class chooses the best detection of each object; every other one votes for the one of its class
    that it overlaps most. The box is the mean of its voters', weighted by their scores: box voting, arXiv 1505.01749.
    The score is the mean over all views of the best score that each gives it, 0 from a view that has not seen it: as
    weighted boxes fusion, arXiv 1910.13302, rescales by the number of models, but with one score a view.

    Differs from box voting on purpose: there a box votes for every object within reach, so that a second box beside a
    sure one inherits its votes. Differs from weighted boxes fusion on purpose: groups form around the best box of
    each, not around a mean that moves with every box, so that they can be found without a loop over boxes.

    Args:
        views: ``bboxes`` (K, 4) px of the picture, ``scores`` and ``labels`` (K,) of each; other fields are left out.
        iou_threshold: detections of one class mean one object where their IoU is above it.

    Returns:
        The same fields, best first; without a detection in any view, empty.
    """
    fields = ('bboxes', 'scores', 'labels')
    found = InstanceData(**{name: torch.cat([view[name] for view in views]) for name in fields})
    found.index = torch.arange(len(found), device=found.labels.device)
    best = suppress_duplicates(found, {'type': 'nms', 'iou_threshold': iou_threshold}, -1)
    if len(best) == 0:
        return InstanceData(**{name: found[name] for name in fields})
    group = group_by_overlap(found, best)
    view = torch.cat([torch.full_like(one.labels, number) for number, one in enumerate(views)])
    scores = mean_over_views(found.scores, group, view, (len(views), len(best)))
    boxes_xyxy = weighted_boxes(found, best.bboxes, group)
    order = scores.argsort(descending=True, stable=True)
    return InstanceData(bboxes=boxes_xyxy[order], scores=scores[order], labels=best.labels[order])


def group_by_overlap(found: InstanceData, best: InstanceData) -> Tensor:
    """Of each of K detections, which of the G best, of its own class, it overlaps most: (K,) long in [0, G)."""
    group = torch.empty_like(found.index)
    # by name, not by overlap: a box without area overlaps nothing, not even itself
    group[best.index] = torch.arange(len(best), device=group.device)
    dropped = torch.ones_like(group, dtype=torch.bool)
    dropped[best.index] = False
    others = found[dropped]
    overlaps = iou_matrix(others.bboxes, best.bboxes)
    group[dropped] = overlaps.masked_fill_(others.labels[:, None] != best.labels, -1).argmax(dim=1)
    return group


def iou_matrix(boxes_xyxy: Tensor, best_xyxy: Tensor) -> Tensor:
    """IoU of each of K boxes with each of G: (K, G). The K have an area, or nothing would have suppressed them.

    A side at a time: 1200 boxes and 600 take less than half the time of mmdet's, whose planes hold pairs of numbers.
    """
    x1, y1, x2, y2 = at_least_float32(boxes_xyxy)[:, None].unbind(-1)
    best_x1, best_y1, best_x2, best_y2 = at_least_float32(best_xyxy).unbind(-1)
    width = (torch.minimum(x2, best_x2) - torch.maximum(x1, best_x1)).clamp_(min=0)
    height = (torch.minimum(y2, best_y2) - torch.maximum(y1, best_y1)).clamp_(min=0)
    inside = width * height
    return inside / ((x2 - x1) * (y2 - y1) + (best_x2 - best_x1) * (best_y2 - best_y1) - inside)


def weighted_boxes(found: InstanceData, best_xyxy: Tensor, group: Tensor) -> Tensor:
    """Mean box of each group, weighted by score: (G, 4). A group of one keeps its box to the last bit."""
    scores, best_xyxy = at_least_float32(found.scores), at_least_float32(best_xyxy)
    shifts = (found.bboxes - best_xyxy[group]) * scores[:, None]
    total = scores.new_zeros(len(best_xyxy)).index_add_(0, group, scores)
    total_shift = torch.zeros_like(best_xyxy).index_add_(0, group, shifts)
    return best_xyxy + total_shift / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]


def mean_over_views(scores: Tensor, group: Tensor, view: Tensor, shape: tuple[int, int]) -> Tensor:
    """Mean over V views of the best score that each gives to each of G groups, ``shape`` (V, G): (G,)."""
    table = scores.new_zeros(shape[0] * shape[1])
    return table.scatter_reduce_(0, view * shape[1] + group, scores, 'amax').view(shape).mean(dim=0)
