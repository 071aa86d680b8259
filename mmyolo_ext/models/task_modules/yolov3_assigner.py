"""YOLOv3's match of boxes and anchors: by the overlap of their sizes, in the cell of the centre alone.

Letters: G boxes of all pictures, A anchors of a level.
"""

import torch
from torch import Tensor

from mmyolo_ext.models.task_modules.yolov5_assigner import YOLOv5Assigner
from mmyolo_ext.registry import TASK_UTILS


@TASK_UTILS.register_module()
class YOLOv3Assigner(YOLOv5Assigner):
    """Match a box and an anchor if the IoU of the two, laid on one corner, is above ``iou_thr``.

    YOLOv3 (arXiv 1804.02767, section 2.1) takes the one anchor of the greatest overlap; here, as in the form that the
    recipe was tuned with, every anchor above the threshold learns the box, on every level, and a box that resembles no
    anchor teaches nothing.

    Args:
        iou_thr: a match must exceed it; from 0 to below 1.
        padded: see :class:`YOLOv5Assigner`.

    Raises:
        ValueError: the threshold is out of range.
    """

    def __init__(self, iou_thr: float = 0.2, padded: bool | None = None) -> None:
        if not 0 <= iou_thr < 1:
            raise ValueError(f'iou_thr must be at least 0 and below 1, got {iou_thr}')
        super().__init__(neighbor_offset=0.0, padded=padded)
        self.iou_thr = iou_thr

    def fits(self, boxes_wh: Tensor, anchors_wh: Tensor) -> Tensor:
        """Which box fits which anchor: (G, A) bool."""
        overlap = torch.minimum(boxes_wh[:, None], anchors_wh[None]).prod(-1)  # (G, A)
        union = boxes_wh.prod(-1)[:, None] + anchors_wh.prod(-1)[None] - overlap
        return overlap > self.iou_thr * union
