"""What the losses of one level are made from.

Letters: N images, A anchors of the level, C classes, G boxes of the batch, P positives.
"""

from typing import NamedTuple

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.heads.batch_boxes import BatchBoxes
from mmyolo_ext.models.task_modules import Positives


class Level(NamedTuple):
    """The network's numbers, the truth and the matches of one level.

    Attributes:
        class_logits: (P, C).
        raw_boxes: (P, 4).
        objectness: (N, A, H, W).
        positives: P matches of anchors and boxes, padding among them.
        counted: (N, A, H, W) bool, where objectness is taught; None for everywhere.
        gt: all boxes of the batch, in px.
        labels: (G,) long, or soft (G, C).
        anchors_wh: (A, 2) px.
        stride: px.
        num_positives: divisor of a mean over the matches, see :mod:`mmyolo_ext.models.over_ranks`.
        num_places: divisor of a mean over all places.
    """

    class_logits: Tensor
    raw_boxes: Tensor
    objectness: Tensor
    positives: Positives
    counted: Tensor | None
    gt: BatchBoxes
    labels: Tensor
    anchors_wh: Tensor
    stride: int
    num_positives: int | Tensor
    num_places: int | Tensor

    def positive_labels(self) -> Tensor:
        """Of the positives' boxes: (P,) long, or soft (P, C)."""
        return self.labels[self.positives.gt]

    def boxes_xyxy(self, bbox_coder: BaseBBoxCoder) -> Tensor:
        """What the network says the positives' boxes are: (P, 4), in grid units."""
        positives = self.positives
        cells_xy = torch.stack([positives.cell_x, positives.cell_y], dim=1)
        anchors_wh = self.anchors_wh[positives.anchor] / self.stride
        return cxcywh_to_xyxy(bbox_coder.decode(self.raw_boxes, cells_xy, anchors_wh))

    def targets_xyxy(self) -> Tensor:
        """What they are: (P, 4), in grid units."""
        return self.gt.boxes_xyxy[self.positives.gt] / self.stride

    def weight(self) -> Tensor | None:
        """1 for a match, 0 for padding: (P,); None where there is no padding."""
        valid = self.positives.valid
        return None if valid is None else valid.float()
