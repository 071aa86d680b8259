"""Detections on several views of a picture, merged.

Letter: K detections.
"""

from collections.abc import Sequence

from mmdet.structures import DetDataSample
from mmdet.structures.bbox import bbox_flip
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.models.heads.suppression import suppress_duplicates
from mmyolo_ext.registry import MODELS


@MODELS.register_module()
class TTAModel(BaseTTAModel):
    """Test-time augmentation that suppresses duplicates as the detector itself does.

    The detections of each view go back to the picture and are suppressed together by the rule of the detector's own
    ``test_cfg``: its ``nms`` and ``max_per_img``. So a model of exclusive classes keeps one label for each box that
    it predicts; a threshold, or ``class_agnostic=True``, is set in one place for prediction and views alike; and a
    single view gives what prediction gives, to the last bit.

    Differs from mmdet's ``DetTTAModel`` on purpose, which takes a rule of its own and suppresses even a single view
    once more: boxes cut off at the border overlap more than they did when prediction compared them.

    Args:
        module: the detector, or its config: ours, or any of mmdet that finds boxes.
        tta_cfg: entries that take the place of the detector's ``nms`` and ``max_per_img``.
        data_preprocessor: of the detector, if its config has none.

    Raises:
        ValueError: neither ``tta_cfg`` nor the detector has a rule; or, in use, predictions with masks.
    """

    def __init__(
        self,
        module: dict | nn.Module,
        tta_cfg: dict | None = None,
        data_preprocessor: dict | nn.Module | None = None,
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

    def merge_preds(self, data_samples_list: Sequence[Sequence[DetDataSample]]) -> list[DetDataSample]:
        """For each picture its first view's sample, with the detections of all its views."""
        return [self._merge(views) for views in data_samples_list]

    def _merge(self, views: Sequence[DetDataSample]) -> DetDataSample:
        found = [as_seen_on_the_picture(view) for view in views]
        merged = views[0]
        if len(found) == 1:
            merged.pred_instances = found[0]
        else:
            merged.pred_instances = suppress_duplicates(InstanceData.cat(found), self.nms, self.max_per_img)
        return merged


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
