"""Test-time augmentation: the detections of several views of an image, merged.

Letters: V views, K detections of all views, G groups of detections of one object.
"""

from collections.abc import Sequence

import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip, bbox_overlaps
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import Tensor, nn

from mmyolo_ext.boxes import at_least_float32
from mmyolo_ext.models.heads.postprocess import suppress_duplicates
from mmyolo_ext.registry import MODELS

MERGES = ('vote', 'best')
FIELDS = ('bboxes', 'scores', 'labels')


@MODELS.register_module()
class TTAModel(BaseTTAModel):
    """Test-time augmentation that merges views with the NMS settings of the detector itself.

    The detections of each view are mapped back to the image and merged by ``nms`` and ``max_per_img`` of the
    detector's ``test_cfg``: with exclusive classes each box keeps one label, and a single view gives exactly what
    ``predict`` gives. mmdet's ``DetTTAModel`` differs: it has an NMS config of its own, keeps the box of the view with
    the highest score, and suppresses a single view a second time.

    Args:
        module: The detector, or its config: ours, or any detector of mmdet that predicts boxes.
        tta_cfg: Entries that override ``nms`` and ``max_per_img`` of the detector.
        data_preprocessor: Of the detector, if its config has none.
        merge: ``'vote'``: box voting, see :func:`vote`. ``'best'``: NMS over the detections of all views, which keeps
            the box with the highest score.

    Raises:
        ValueError: If ``merge`` is unknown, neither ``tta_cfg`` nor the detector has ``nms``, box voting is used with
            another NMS than the plain one, or predictions have masks.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        merge: str = 'vote',
    ) -> None:
        super().__init__(module, data_preprocessor)
        head = getattr(self.module, 'roi_head', None) or getattr(self.module, 'bbox_head', None)
        test_cfg = {**(getattr(head, 'test_cfg', None) or {}), **(tta_cfg or {})}
        if 'nms' not in test_cfg:
            raise ValueError(
                f'{type(self.module).__name__} has no nms in its test_cfg: give tta_model=dict(tta_cfg=dict(nms=...))'
            )
        self.nms = test_cfg['nms']
        self.max_per_img = test_cfg.get('max_per_img', -1)
        self.merge = merge
        if merge not in MERGES:
            raise ValueError(f'merge must be one of {MERGES}, got {merge!r}')
        nms = self.nms or {}
        if merge == 'vote' and (nms.get('type', 'nms') != 'nms' or 'iou_threshold' not in nms):
            raise ValueError(
                f"box voting needs nms=dict(type='nms', iou_threshold=...), got {self.nms}: set it in "
                "tta_model=dict(tta_cfg=...), or use tta_model=dict(merge='best')"
            )

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """Return for each image the sample of its first view, with the merged detections of all views."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[DetDataSample]) -> DetDataSample:
        found = [unflipped(view) for view in views]
        merged = views[0]
        if len(found) == 1:
            merged.pred_instances = found[0]
        elif self.merge == 'best':
            merged.pred_instances = suppress_duplicates(InstanceData.cat(found), self.nms, self.max_per_img)
        else:
            voted = vote(found, self.nms['iou_threshold'])
            if self.nms.get('class_agnostic', False):
                voted = suppress_duplicates(voted, self.nms, self.max_per_img)
            merged.pred_instances = voted[: self.max_per_img] if self.max_per_img > 0 else voted
        return merged


def unflipped(view: DetDataSample) -> InstanceData:
    """Return ``bboxes`` (K, 4) in pixels of the image, ``scores`` and ``labels`` (K,) of a view, with a flip undone.

    Raises:
        ValueError: If the predictions have masks.
    """
    found = view.pred_instances
    if 'masks' in found:
        raise ValueError('test-time augmentation merges boxes only, and these predictions have masks: omit --tta')
    if view.get('flip', False):
        flipped = bbox_flip(found.bboxes, view.ori_shape, view.flip_direction)
        return InstanceData(bboxes=flipped, scores=found.scores, labels=found.labels)
    return found


def vote(views: Sequence[InstanceData], iou_threshold: float) -> InstanceData:
    """Merge the detections of several views by box voting.

    Class-wise NMS selects the best detection of each object; every suppressed detection joins the one of its class
    that it overlaps most. The box of a group is the mean of its members, weighted by score (box voting, arXiv
    1505.01749). Its score is the mean over all views of the best score in each view, 0 for a view without a member,
    similar to the rescaling of weighted boxes fusion (arXiv 1910.13302).

    Unlike in box voting, a box joins one group only, so that a second box beside a certain one does not inherit its
    members. Unlike in weighted boxes fusion, groups form around the best box, not around a moving mean.

    Args:
        views: ``bboxes`` (K, 4) in pixels of the image, ``scores`` and ``labels`` (K,) of each view.
        iou_threshold: Detections of one class are of one object if their IoU is above it.

    Returns:
        The same fields, highest score first.
    """
    found = InstanceData(**{name: torch.cat([view[name] for view in views]) for name in FIELDS})
    found.index = torch.arange(len(found), device=found.labels.device)
    best = suppress_duplicates(found, {'type': 'nms', 'iou_threshold': iou_threshold}, -1)
    if len(best) == 0:
        return InstanceData(**{name: found[name] for name in FIELDS})
    group = _group_by_overlap(found, best)
    # score: (V, G) of the best score of each view, then the mean over views
    view = torch.cat([torch.full_like(one.labels, number) for number, one in enumerate(views)])
    table = found.scores.new_zeros(len(views) * len(best))
    table.scatter_reduce_(0, view * len(best) + group, found.scores, 'amax')
    scores = table.view(len(views), len(best)).mean(dim=0)
    # box: the best one plus the weighted mean of the differences, so that a group of one keeps its box exactly
    weights, best_xyxy = at_least_float32(found.scores), at_least_float32(best.bboxes)
    total = weights.new_zeros(len(best)).index_add_(0, group, weights)
    shifts = (found.bboxes - best_xyxy[group]) * weights[:, None]
    total_shifts = torch.zeros_like(best_xyxy).index_add_(0, group, shifts)
    boxes_xyxy = best_xyxy + total_shifts / total.clamp(min=torch.finfo(total.dtype).tiny)[:, None]
    order = scores.argsort(descending=True, stable=True)
    return InstanceData(bboxes=boxes_xyxy[order], scores=scores[order], labels=best.labels[order])


def _group_by_overlap(found: InstanceData, best: InstanceData) -> Tensor:
    """Return for each of K detections which of the G best of its class it overlaps most: (K,) long in [0, G)."""
    group = torch.empty_like(found.index)
    # by index, not by overlap: a box without area overlaps nothing, not even itself
    group[best.index] = torch.arange(len(best), device=group.device)
    suppressed = torch.ones_like(group, dtype=torch.bool)
    suppressed[best.index] = False
    others = found[suppressed]
    iou = bbox_overlaps(at_least_float32(others.bboxes), at_least_float32(best.bboxes))  # (K - G, G)
    group[suppressed] = iou.masked_fill_(others.labels[:, None] != best.labels, -1).argmax(dim=1)
    return group
