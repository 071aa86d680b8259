"""YOLOv3's head: the interface of YOLOv5's with the code, the match and the gains of 2018's detector."""

from collections.abc import Sequence
from typing import Any

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
        nominal_batch_size: how many pictures a step sees in all, where a recipe adds up the gradients of batches until
            it has so many (``AccumulateHook``): each batch then counts for its share of them, and a step moves the
            weights by the mean over its pictures. By default the losses are the mean of the batch, whatever its size.
        start_objectness: bias of objectness at the start, on every level; by default the rate of objects in cells, see
            :meth:`YOLOv5Head.init_weights`.
        **kwargs: what else :class:`YOLOv5Head` takes.

    Raises:
        ValueError: as in :class:`YOLOv5Head`, or ``nominal_batch_size`` below 1.
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
        loss_bbox: dict | Sequence[dict] = LOSS_BBOX,
        loss_obj: dict = LOSS_OBJ,
        obj_level_weights: Sequence[float] | str = 'auto',
        iou_ratio: float = 0.0,
        nominal_batch_size: int | None = None,
        start_objectness: float | None = None,
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
        if nominal_batch_size is not None and nominal_batch_size < 1:
            raise ValueError(f'nominal_batch_size must be 1 or more, or None, got {nominal_batch_size}')
        self.nominal_batch_size = nominal_batch_size
        self.start_objectness = start_objectness

    def init_weights(self) -> None:
        """As :class:`YOLOv5Head`; then the bias of objectness is ``start_objectness``, if that is given."""
        super().init_weights()
        if self.start_objectness is None or (self.init_cfg and self.init_cfg.get('type') == 'Pretrained'):
            return
        for conv in self.convs_pred:
            conv.bias.data.view(self.num_anchors, -1)[:, 4] = self.start_objectness

    def batch_factor(self, batch_size: int | Tensor) -> float | Tensor:
        """1: losses of a mean picture; or the share of the batch in ``nominal_batch_size``."""
        return 1 if self.nominal_batch_size is None else batch_size / self.nominal_batch_size
