"""YOLOv5's box code: four numbers of the network <-> a box, in grid units."""

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from torch import Tensor

from mmyolo_ext.registry import TASK_UTILS

# how near to 0 and 1 `encode` lets a probability come, for its logit to be finite
PROBABILITY_MARGIN = 1e-6


@TASK_UTILS.register_module()
class YOLOv5BBoxCoder(BaseBBoxCoder):
    """centre = 2 sigma(t_xy) - 1/2 + cell; size = (2 sigma(t_wh))^2 * anchor.

    So a cell reaches half a cell beyond its borders, and an anchor sizes up to four times its own. All lengths are in
    grid units of the level; ``decode`` is shared by loss, prediction and export.
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
        # out of place and in the dtype of `preds`: the caller decides on precision
        xy, wh = (2 * preds.sigmoid()).split(2, dim=-1)
        return torch.cat([xy - 0.5 + cells_xy, wh.square() * anchors_wh], dim=-1)

    def encode(self, boxes_cxcywh: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Raw numbers that ``decode`` turns into these boxes.

        A box whose centre is half a cell or more from the cell, or whose size is not between 0 and four times the
        anchor's, has none: it gets those of the nearest box that has.

        Args:
            boxes_cxcywh: (..., 4), grid units.
            cells_xy: (..., 2) column and row of the cell.
            anchors_wh: (..., 2) size of the anchor, grid units.

        Returns:
            (..., 4) raw x, y, w, h.
        """
        center, size = boxes_cxcywh.split(2, dim=-1)
        xy = (center - cells_xy + 0.5) / 2
        wh = (size / anchors_wh).clamp(min=0).sqrt() / 2
        return torch.cat([xy, wh], dim=-1).logit(eps=PROBABILITY_MARGIN)
