"""What the losses of one level are made from.

Letters: N images, A priors of the level, C classes, G boxes of the batch, P positives.
"""

from typing import NamedTuple

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.heads.batch_boxes import BatchBoxes, at_positives
from mmyolo_ext.models.task_modules import Positives


class Level(NamedTuple):
    """The network's numbers, the truth and the matches of one level.

    Attributes:
        cls_score: (N, A*C, H, W).
        bbox_pred: (N, A*4, H, W).
        objectness: (N, A, H, W).
        positives: P matches of priors and boxes.
        counted: (N*A*H*W,) bool, where objectness is taught; None for everywhere.
        gt: all boxes of the batch, in px.
        labels: (G,) long, or soft (G, C).
        priors_wh: (A, 2) px.
        stride: px.
    """

    cls_score: Tensor
    bbox_pred: Tensor
    objectness: Tensor
    positives: Positives
    counted: Tensor | None
    gt: BatchBoxes
    labels: Tensor
    priors_wh: Tensor
    stride: int

    def class_logits(self) -> Tensor:
        """Of the positives: (P, C)."""
        return at_positives(self.cls_score, self.positives, len(self.priors_wh))

    def positive_labels(self) -> Tensor:
        """Of the positives' boxes: (P,) long, or soft (P, C)."""
        return self.labels[self.positives.gt]

    def boxes_xyxy(self, bbox_coder: BaseBBoxCoder) -> Tensor:
        """What the network says the positives' boxes are: (P, 4), in grid units."""
        positives = self.positives
        cells_xy = torch.stack([positives.cell_x, positives.cell_y], dim=1)
        raw_boxes = at_positives(self.bbox_pred, positives, len(self.priors_wh))
        priors_wh = self.priors_wh[positives.prior] / self.stride
        return cxcywh_to_xyxy(bbox_coder.decode(raw_boxes, cells_xy, priors_wh))

    def targets_xyxy(self) -> Tensor:
        """What they are: (P, 4), in grid units."""
        return self.gt.boxes_xyxy[self.positives.gt] / self.stride
