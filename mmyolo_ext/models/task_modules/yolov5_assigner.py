"""The match of boxes and anchors by their sizes alone: by the ratio of sides (YOLOv5) or by IoU (YOLOv3).

Letters: G boxes of the batch, A anchors of a level, P positives of a level, S cells that a box may be assigned to.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmyolo_ext.registry import TASK_UTILS


class Positives(NamedTuple):
    """The matches of one level: long tensors (P,).

    Attributes:
        image: Index of the image in the batch.
        anchor: Index of the anchor in the level.
        cell_y: Row.
        cell_x: Column.
        gt: Index of the box in the batch.
        valid: (P,) bool, False for padding, whose indices are in range too. None: all are matches.
    """

    image: Tensor
    anchor: Tensor
    cell_y: Tensor
    cell_x: Tensor
    gt: Tensor
    valid: Tensor | None = None

    def __len__(self) -> int:
        return len(self.gt)

    @property
    def count(self) -> int | Tensor:
        """Return the number of matches; a scalar tensor with padding, since only the device knows it."""
        return self.gt.shape[0] if self.valid is None else self.valid.sum()

    def without_padding(self) -> 'Positives':
        """Return the matches alone, in their order; the host waits for the device to count them."""
        if self.valid is None:
            return self
        matches = self.valid.nonzero().flatten()
        return Positives(*(field[matches] for field in self[:5]))


@TASK_UTILS.register_module()
class YOLOv5Assigner:
    """Match box b (w, h) and anchor a (w_a, h_a) if max(w/w_a, w_a/w, h/h_a, h_a/h) < ``prior_match_thr``.

    A matched box is assigned to the cell of its centre and to those neighbours inside the grid (one sideways, one up
    or down) that the centre is closer to than ``neighbor_offset``.

    Args:
        prior_match_thr: Upper bound of the ratio of sides, above 1.
        neighbor_offset: In cells, from 0 (own cell only) to 0.5.
        padded: Return every pair of a box and an anchor in every cell it may be assigned to, with ``Positives.valid``
            for the matches. The number of rows then depends on the number of boxes only, and the host need not wait
            for the device. None: on every device but the CPU, where fewer rows are faster.

    Raises:
        ValueError: If a threshold is out of range.
    """

    def __init__(self, prior_match_thr: float = 4.0, neighbor_offset: float = 0.5, padded: bool | None = None) -> None:
        if not prior_match_thr > 1:
            raise ValueError(f'prior_match_thr is a ratio of sides and must be above 1, got {prior_match_thr}')
        if not 0 <= neighbor_offset <= 0.5:
            raise ValueError(f'neighbor_offset must be from 0 to 0.5, got {neighbor_offset}')
        self.prior_match_thr = prior_match_thr
        self.neighbor_offset = neighbor_offset
        self.padded = padded

    def assign(
        self,
        boxes_cxcywh: Tensor,
        image: Tensor,
        anchors_wh: Sequence[Tensor],
        strides: Sequence[int],
        grid_sizes_hw: Sequence[tuple[int, int]],
    ) -> list[Positives]:
        """Match the boxes of all images of a batch.

        Args:
            boxes_cxcywh: (G, 4) px of the network input, of positive size.
            image: (G,) long, the image of each box.
            anchors_wh: Of each level (A, 2), px.
            strides: Of each level, px.
            grid_sizes_hw: Of each level, cells.

        Returns:
            The positives of each level.
        """
        padded = image.device.type != 'cpu' if self.padded is None else self.padded
        levels = []
        for level_wh, stride, grid_hw in zip(anchors_wh, strides, grid_sizes_hw, strict=True):
            boxes, level_wh = boxes_cxcywh / stride, level_wh / stride  # grid units
            fits = self.fits(boxes[:, 2:], level_wh)
            cell_y, cell_x, near = self._cells(boxes[:, :2], grid_hw)
            matches = near[:, :, None] & fits  # (S, G, A)
            gt = torch.arange(len(image), device=image.device)
            anchor = torch.arange(len(level_wh), device=image.device)
            fields = (image[:, None], anchor, cell_y[:, :, None], cell_x[:, :, None], gt[:, None])
            expanded = (field.expand(matches.shape).flatten() for field in fields)
            candidates = Positives(*expanded, valid=matches.flatten())
            levels.append(candidates if padded else candidates.without_padding())
        return levels

    def fits(self, boxes_wh: Tensor, anchors_wh: Tensor) -> Tensor:
        """Return which box fits which anchor: (G, A) bool."""
        ratio = boxes_wh[:, None] / anchors_wh[None]  # (G, A, 2)
        return torch.maximum(ratio, 1 / ratio).amax(-1) < self.prior_match_thr

    def _cells(self, centers: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """Return row and column of the cells around the centres (G, 2), and which the box is assigned to: (S, G)."""
        (height, width), (x, y), offset = grid_hw, centers.unbind(1), self.neighbor_offset
        # own, left, upper, right, lower
        distances = (x, y, width - x, height - y)
        near = torch.stack([torch.ones_like(x, dtype=torch.bool), *((d % 1 < offset) & (d > 1) for d in distances)])
        cell_x = torch.stack([x, x - offset, x, x + offset, x]).floor().long().clamp(0, width - 1)
        cell_y = torch.stack([y, y, y - offset, y, y + offset]).floor().long().clamp(0, height - 1)
        # without an offset only the own cell
        return tuple(field if offset else field[:1] for field in (cell_y, cell_x, near))


@TASK_UTILS.register_module()
class YOLOv3Assigner(YOLOv5Assigner):
    """Match a box and an anchor if the IoU of their sizes is above ``iou_thr``, in the cell of the centre alone.

    YOLOv3 (arXiv 1804.02767, section 2.1) assigns the one anchor of the highest IoU. Here, as in the form that the
    recipe was tuned with, every anchor above the threshold is positive, on every level, and a box without such an
    anchor is not assigned.

    Args:
        iou_thr: From 0 to below 1.
        padded: See :class:`YOLOv5Assigner`.

    Raises:
        ValueError: If the threshold is out of range.
    """

    def __init__(self, iou_thr: float = 0.2, padded: bool | None = None) -> None:
        if not 0 <= iou_thr < 1:
            raise ValueError(f'iou_thr must be at least 0 and below 1, got {iou_thr}')
        super().__init__(neighbor_offset=0.0, padded=padded)
        self.iou_thr = iou_thr

    def fits(self, boxes_wh: Tensor, anchors_wh: Tensor) -> Tensor:
        """Return which box fits which anchor: (G, A) bool."""
        overlap = torch.minimum(boxes_wh[:, None], anchors_wh[None]).prod(-1)  # (G, A)
        union = boxes_wh.prod(-1)[:, None] + anchors_wh.prod(-1)[None] - overlap
        return overlap > self.iou_thr * union
