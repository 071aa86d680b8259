"""Box coders: four numbers of the network <-> a box. All lengths are in grid units of the level."""

import math

import torch
from mmdet.models.task_modules.coders import BaseBBoxCoder
from torch import Tensor

from mmyolo_ext.registry import TASK_UTILS

# distance that `encode` keeps from 0 and 1, so that logits are finite
PROBABILITY_MARGIN = 1e-6
# bounds of size / anchor in YOLOv3: one wild prediction must not make the loss infinite
MAX_GROWTH = 1000.0
LEAST_GROWTH = 1e-6


@TASK_UTILS.register_module()
class YOLOv5BBoxCoder(BaseBBoxCoder):
    """centre = 2 sigma(t_xy) - 1/2 + cell; size = (2 sigma(t_wh))^2 * anchor.

    A prediction reaches half a cell beyond its cell, and four times the size of its anchor.
    """

    def decode(self, preds: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Return the boxes of raw predictions.

        Args:
            preds: (..., 4) raw x, y, w, h.
            cells_xy: (..., 2) column and row of the cell.
            anchors_wh: (..., 2).

        Returns:
            (..., 4) cxcywh, in the dtype of ``preds``.
        """
        xy, wh = (2 * preds.sigmoid()).split(2, dim=-1)
        return torch.cat([xy - 0.5 + cells_xy, wh.square() * anchors_wh], dim=-1)

    def encode(self, boxes_cxcywh: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Return the raw predictions (..., 4) that ``decode`` turns into these boxes.

        A box whose centre is half a cell or more from the cell, or whose size is not between 0 and four times that of
        the anchor, gets those of the nearest box that can be encoded. Arguments as in :meth:`decode`.
        """
        center, size = boxes_cxcywh.split(2, dim=-1)
        xy = (center - cells_xy + 0.5) / 2
        wh = (size / anchors_wh).clamp(min=0).sqrt() / 2
        return torch.cat([xy, wh], dim=-1).logit(eps=PROBABILITY_MARGIN)


@TASK_UTILS.register_module()
class YOLOv3BBoxCoder(BaseBBoxCoder):
    """centre = sigma(t_xy) + cell; size = exp(t_wh) * anchor, the exponential at most 1000 (arXiv 1804.02767, 2.1)."""

    def decode(self, preds: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Return the boxes of raw predictions, see :meth:`YOLOv5BBoxCoder.decode`."""
        raw_xy, raw_wh = preds.split(2, dim=-1)
        # clamped before the exponential: after it, infinity times a gradient of zero would be NaN
        growth = raw_wh.clamp(max=math.log(MAX_GROWTH)).exp()
        return torch.cat([raw_xy.sigmoid() + cells_xy, growth * anchors_wh], dim=-1)

    def encode(self, boxes_cxcywh: Tensor, cells_xy: Tensor, anchors_wh: Tensor) -> Tensor:
        """Return the raw predictions (..., 4) that ``decode`` turns into these boxes.

        A box whose centre is outside the cell, or whose size is not between 0 and 1000 times that of the anchor, gets
        those of the nearest box that can be encoded.
        """
        center, size = boxes_cxcywh.split(2, dim=-1)
        growth = (size / anchors_wh).clamp(min=LEAST_GROWTH, max=MAX_GROWTH)
        return torch.cat([(center - cells_xy).logit(eps=PROBABILITY_MARGIN), growth.log()], dim=-1)
