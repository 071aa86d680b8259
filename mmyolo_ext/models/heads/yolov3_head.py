"""The YOLOv3 head: that of YOLOv5 with the box coder, assigner and gains of YOLOv3."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from mmyolo_ext.models.heads.yolov5_head import NOMINAL_CLASSES, PRIOR_GENERATOR, YOLOv5Head
from mmyolo_ext.registry import MODELS

# what differs from YOLOv5
DEFAULTS = {
    'bbox_coder': {'type': 'mmyolo_ext.YOLOv3BBoxCoder'},
    'assigner': {'type': 'mmyolo_ext.YOLOv3Assigner'},
    'loss_cls': {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 37.4},
    'loss_bbox': {'type': 'mmyolo_ext.IoULoss', 'mode': 'giou', 'loss_weight': 3.54},
    'loss_obj': {'type': 'mmyolo_ext.BCELoss', 'loss_weight': 64.3},
    'iou_ratio': 0.0,
}


@MODELS.register_module()
class YOLOv3Head(YOLOv5Head):
    """Three predictions per cell as in YOLOv3 (arXiv 1804.02767), with the GIoU loss (arXiv 1902.09630).

    Differences from :class:`YOLOv5Head`: box coder, assigner, gains; all levels have the same objectness weight; the
    objectness target of a positive is 1, or with ``iou_ratio`` g the mixture (1 - g) + g * max(GIoU, 0); losses are
    means over images, not multiplied by the batch size.

    Args:
        num_classes: C.
        in_channels: As in :class:`YOLOv5Head`.
        nominal_batch_size: Number of images of an optimiser step in recipes that add up gradients of several batches
            (``AccumulateHook``): each batch then counts for its share. By default losses are the mean of the batch.
        start_objectness: Initial bias of objectness on every level; by default that of
            :meth:`YOLOv5Head.init_weights`.
        **kwargs: Arguments of :class:`YOLOv5Head`, with other defaults: ``obj_level_weights`` 1 each, ``iou_ratio`` 0,
            and the components of ``DEFAULTS`` in this module.
    """

    quality_mode = 'giou'

    def __init__(
        self,
        num_classes: int = NOMINAL_CLASSES,
        in_channels: Sequence[int] | str = (128, 256, 512),
        nominal_batch_size: int | None = None,
        start_objectness: float | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = {**DEFAULTS, **kwargs}
        if kwargs.get('obj_level_weights', 'auto') == 'auto':
            kwargs['obj_level_weights'] = [1.0] * len(kwargs.get('prior_generator', PRIOR_GENERATOR)['strides'])
        super().__init__(num_classes, in_channels, **kwargs)
        self.nominal_batch_size = nominal_batch_size
        self.start_objectness = start_objectness

    def init_weights(self) -> None:
        """Initialise as :class:`YOLOv5Head`, with ``start_objectness`` as the bias of objectness if given."""
        super().init_weights()
        if self.start_objectness is None or (self.init_cfg and self.init_cfg.get('type') == 'Pretrained'):
            return
        for conv in self.convs_pred:
            conv.bias.data.view(self.num_anchors, -1)[:, 4] = self.start_objectness

    def batch_factor(self, batch_size: int | Tensor) -> float | Tensor:
        """Return 1, for the loss of a mean image; or the share of the batch in ``nominal_batch_size``."""
        return 1 if self.nominal_batch_size is None else batch_size / self.nominal_batch_size
