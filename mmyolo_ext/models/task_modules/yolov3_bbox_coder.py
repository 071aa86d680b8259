"""YOLOv3's box code: four numbers of the network <-> a box, in grid units (arXiv 1804.02767, section 2.1)."""

import math

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from torch import Tensor

from mmyolo_ext.registry import TASK_UTILS

# a box is at most so many times its anchor, or one wild prediction makes the loss infinite
MAX_GROWTH = 1000.0
# how near to 0 and 1 `encode` lets a share of the cell come, and how small a box, for its numbers to be finite
SHARE_MARGIN = 1e-6
LEAST_GROWTH = 1e-6


@TASK_UTILS.register_module()
class YOLOv3BBoxCoder(BaseBBoxCoder):
    """centre = sigma(t_xy) + cell; size = exp(t_wh) * anchor, the exponential at most 1000.

    All lengths are in grid units of the level; ``decode`` is shared by loss, prediction and export.
    """

    def decode(self, preds: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Boxes of raw predictions.

        Args:
            preds: (..., 4) raw x, y, w, h.
            cells_xy: (..., 2) column and row of the cell.
            anchors_wh: (..., 2) size of the anchor, grid units.

        Returns:
            (..., 4) cxcywh, grid units.
        """
        raw_xy, raw_wh = preds.split(2, dim=-1)
        # bounded before the exponential: beyond it, infinity times the bound's gradient of zero would be NaN
        growth = raw_wh.clamp(max=math.log(MAX_GROWTH)).exp()
        return torch.cat([raw_xy.sigmoid() + cells_xy, growth * anchors_wh], dim=-1)

    def encode(self, boxes_cxcywh: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Raw numbers that ``decode`` turns into these boxes.

        A box whose centre is outside the cell, or whose size is not between 0 and 1000 times the anchor's, has none: it
        gets those of the nearest box that has.

        Args:
            boxes_cxcywh: (..., 4), grid units.
            cells_xy: (..., 2) column and row of the cell.
            anchors_wh: (..., 2) size of the anchor, grid units.

        Returns:
            (..., 4) raw x, y, w, h.
        """
        center, size = boxes_cxcywh.split(2, dim=-1)
        growth = (size / anchors_wh).clamp(min=LEAST_GROWTH, max=MAX_GROWTH)
        return torch.cat([(center - cells_xy).logit(eps=SHARE_MARGIN), growth.log()], dim=-1)
