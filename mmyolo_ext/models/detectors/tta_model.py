"""Detections on several views of a picture, merged.

Letter: K detections.
"""

from collections.abc import Sequence

from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.models.detectors.view_votes import vote
from mmyolo_ext.models.heads.suppression import suppress_duplicates
from mmyolo_ext.registry import MODELS

MERGES = ('vote', 'best')


@MODELS.register_module()
class TTAModel(BaseTTAModel):
    """Test-time augmentation that merges views by the rule by which the detector itself suppresses duplicates.

    The detections of each view go back to the picture and come together by the detector's own ``test_cfg``: its
    ``nms`` and ``max_per_img``. So a model of exclusive classes keeps one label for each box that it predicts; a
    threshold, or ``class_agnostic=True``, is set in one place for prediction and views alike; and a single view gives
    what prediction gives, to the last bit.

    Differs from mmdet's ``DetTTAModel`` on purpose, which takes a rule of its own, keeps the box of the view with the
    highest score, and suppresses even a single view once more: boxes cut off at the border overlap more than they did
    when prediction compared them.

    Args:
        module: the detector, or its config: ours, or any of mmdet that finds boxes.
        tta_cfg: entries that take the place of the detector's ``nms`` and ``max_per_img``.
        data_preprocessor: of the detector, if its config has none.
        merge: 'vote': the views agree on box and score, see :func:`vote`; the labels of a class-agnostic rule are
            compared by the scores agreed on. 'best': suppression alone, which keeps the box of the surest view.

    Raises:
        ValueError: ``merge`` is unknown; neither ``tta_cfg`` nor the detector has a rule; votes under another rule
            than plain NMS; or, in use, predictions with masks.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
        merge: str = 'vote',
    ) -> None:
        super().__init__(module, data_preprocessor)
        rule = {**own_rule(self.module), **(tta_cfg or {})}
        if 'nms' not in rule:
            raise ValueError(
                f'{type(self.module).__name__} has no test_cfg with nms to merge views by: give '
                "tta_model=dict(tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.65), max_per_img=300))"
            )
        self.nms = rule['nms']
        self.max_per_img = rule.get('max_per_img', -1)
        self.merge = check_merge(merge, self.nms)

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """For each picture its first view's sample, with the detections of all its views."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[DetDataSample]) -> DetDataSample:
        found = [as_seen_on_the_picture(view) for view in views]
        merged = views[0]
        if len(found) == 1:
            merged.pred_instances = found[0]
        elif self.merge == 'vote':
            merged.pred_instances = self._vote(found)
        else:
            merged.pred_instances = suppress_duplicates(InstanceData.cat(found), self.nms, self.max_per_img)
        return merged

    def _vote(self, found: Sequence[InstanceData]) -> InstanceData:
        agreed = vote(found, self.nms['iou_threshold'])
        if self.nms.get('class_agnostic', False):
            return suppress_duplicates(agreed, self.nms, self.max_per_img)
        return agreed[: self.max_per_img] if self.max_per_img > 0 else agreed


def check_merge(merge: str, nms_cfg: dict | None) -> str:
    """``merge`` as it is.

    Raises:
        ValueError: it is unknown, or the views cannot vote by ``nms_cfg``.
    """
    if merge not in MERGES:
        raise ValueError(f'merge must be one of {MERGES}, got {merge!r}')
    rule = nms_cfg or {}
    plain = rule.get('type', 'nms') == 'nms' and 'iou_threshold' in rule
    if merge == 'vote' and not plain:
        raise ValueError(
            f"views vote by nms=dict(type='nms', iou_threshold=...), got {nms_cfg}: give such a one in "
            "tta_model=dict(tta_cfg=...), or tta_model=dict(merge='best') to suppress by the one there is"
        )
    return merge


def own_rule(detector: nn.Module) -> dict:
    """The ``test_cfg`` by which a detector of one stage or two makes its last detections; empty if it has none."""
    part = getattr(detector, 'roi_head', None) or getattr(detector, 'bbox_head', None)
    return dict(getattr(part, 'test_cfg', None) or {})


def as_seen_on_the_picture(view: DetDataSample) -> InstanceData:
    """``bboxes`` (K, 4) px of the picture, ``scores`` and ``labels`` (K,) of a view, with a flip undone."""
    found = view.pred_instances
    if 'masks' in found:
        raise ValueError('views are merged by their boxes alone, these predictions have masks: test without --tta')
    if view.get('flip', False):
        flipped = bbox_flip(found.bboxes, view.ori_shape, view.flip_direction)
        return InstanceData(bboxes=flipped, scores=found.scores, labels=found.labels)
    return found
