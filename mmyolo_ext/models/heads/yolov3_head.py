"""YOLOv3's head: the interface of YOLOv5's with the code, the match and the gains of 2018's detector."""

from collections.abc import Sequence
from typing import Any

from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.models.heads.yolov5_defaults import PRIOR_GENERATOR
from mmyolo_ext.models.heads.yolov5_head import YOLOv5Head
from mmyolo_ext.registry import MODELS

BBOX_CODER = {'type': 'mmyolo_ext.YOLOv3BBoxCoder'}
ASSIGNER = {'type': 'mmyolo_ext.YOLOv3Assigner'}
LOSS_CLS = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 37.4}
LOSS_BBOX = {'type': 'mmyolo_ext.IoULoss', 'mode': 'giou', 'loss_weight': 3.54}
LOSS_OBJ = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 64.3}


@MODELS.register_module()
class YOLOv3Head(YOLOv5Head):
    """Three predictions a place, as YOLOv3 (arXiv 1804.02767) has them, taught by GIoU (arXiv 1902.09630).

    What differs from :class:`YOLOv5Head`: the box code, the match, the gains; every level's objectness counts alike;
    its target at a positive is 1, or with ``iou_ratio`` g the mixture (1 - g) + g * max(GIoU, 0); and the losses are
    those of a mean picture, not multiplied by the batch size.

    Args:
        num_classes: C.
        in_channels: as in :class:`YOLOv5Head`.
        prior_generator: sizes in px and strides of each level, in the order of the levels.
        bbox_coder: turns predictions into boxes.
        assigner: finds the positives.
        loss_cls: see :class:`YOLOv5Head`; likewise the next two.
        loss_bbox: see there.
        loss_obj: see there.
        obj_level_weights: one per level, or ``'auto'``: 1 each.
        iou_ratio: g.
        **kwargs: what else :class:`YOLOv5Head` takes.
    """

    quality_mode = 'giou'

    def __init__(
        self,
        num_classes: int,
        in_channels: Sequence[int] | str,
        prior_generator: dict = PRIOR_GENERATOR,
        bbox_coder: dict = BBOX_CODER,
        assigner: dict = ASSIGNER,
        loss_cls: dict = LOSS_CLS,
        loss_bbox: dict = LOSS_BBOX,
        loss_obj: dict = LOSS_OBJ,
        obj_level_weights: Sequence[float] | str = 'auto',
        iou_ratio: float = 0.0,
        **kwargs: Any,
    ) -> None:
        if obj_level_weights == 'auto':
            obj_level_weights = [1.0] * len(prior_generator['strides'])
        super().__init__(
            num_classes,
            in_channels,
            prior_generator,
            bbox_coder,
            assigner,
            loss_cls,
            loss_bbox,
            loss_obj,
            obj_level_weights=obj_level_weights,
            iou_ratio=iou_ratio,
            **kwargs,
        )

    def loss_by_feat(
        self,
        cls_scores: Sequence[Tensor],
        bbox_preds: Sequence[Tensor],
        objectnesses: Sequence[Tensor],
        batch_gt_instances: Sequence[InstanceData],
        batch_img_metas: Sequence[dict],
        batch_gt_instances_ignore: Sequence[InstanceData | None] | None = None,
    ) -> dict[str, Tensor]:
        """As :meth:`YOLOv5Head.loss_by_feat`, without the batch size as a factor."""
        losses = super().loss_by_feat(
            cls_scores, bbox_preds, objectnesses, batch_gt_instances, batch_img_metas, batch_gt_instances_ignore
        )
        batch_size = len(batch_img_metas)
        return {name: value / batch_size if name.startswith('loss') else value for name, value in losses.items()}
