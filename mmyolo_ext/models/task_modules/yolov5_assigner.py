"""YOLOv5's match of boxes and anchors: by the ratio of their sizes, in up to three cells a box.

Letters: G boxes of all pictures, A anchors of a level, L levels, S cells that may learn a box.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from mmyolo_ext.models.task_modules.positives import Positives
from mmyolo_ext.registry import TASK_UTILS


@TASK_UTILS.register_module()
class YOLOv5Assigner:
    """Match box b (w, h) and anchor a (w_a, h_a) if max(w/w_a, w_a/w, h/h_a, h_a/h) < ``prior_match_thr``.

    A matched box teaches the cell of its centre, and the two neighbours (one sideways, one up or down) that the
    centre is nearer to than ``neighbor_offset``, those inside the grid.

    Args:
        prior_match_thr: greatest ratio of sides, above 1.
        neighbor_offset: how near to a neighbour the centre must be to teach it, in cells: 0 (own cell only) to 0.5.
        padded: give every pair of a box and an anchor in every cell that might learn it, with ``Positives.valid`` for
            those that do: the boxes alone then decide how many rows there are, and the host need not wait for the
            device to count them. None: on every device but the CPU, where fewer rows are faster.

    Raises:
        ValueError: a threshold out of range.
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
        """Match the boxes of all pictures of a batch.

        Args:
            boxes_cxcywh: (G, 4) px of the network input, of positive size.
            image: (G,) long, the picture of each box.
            anchors_wh: of each level (A, 2), px.
            strides: of each level, px.
            grid_sizes_hw: of each level, cells.

        Returns:
            The positives of each level; empty ones where nothing matches.
        """
        return [
            self._assign_level(boxes_cxcywh / stride, image, level_anchors / stride, grid_hw)
            for level_anchors, stride, grid_hw in zip(anchors_wh, strides, grid_sizes_hw, strict=True)
        ]

    def _assign_level(
        self, boxes_cxcywh: Tensor, image: Tensor, anchors_wh: Tensor, grid_hw: tuple[int, int]
    ) -> Positives:
        """The same for one level; boxes and anchors are in its grid units."""
        fits = self.fits(boxes_cxcywh[:, 2:], anchors_wh)
        cell_y, cell_x, learns = self._cells(boxes_cxcywh[:, :2], grid_hw)
        matches = learns[:, :, None] & fits  # (S, G, A)
        gt = torch.arange(len(image), device=image.device)
        anchor = torch.arange(len(anchors_wh), device=image.device)
        candidates = Positives(
            *(
                field.expand(matches.shape).flatten()
                for field in (image[:, None], anchor, cell_y[:, :, None], cell_x[:, :, None], gt[:, None])
            ),
            valid=matches.flatten(),
        )
        padded = image.device.type != 'cpu' if self.padded is None else self.padded
        return candidates if padded else candidates.without_padding()

    def fits(self, boxes_wh: Tensor, anchors_wh: Tensor) -> Tensor:
        """Which box fits which anchor: (G, A) bool."""
        ratio = boxes_wh[:, None] / anchors_wh[None]  # (G, A, 2)
        return torch.maximum(ratio, 1 / ratio).amax(-1) < self.prior_match_thr

    def _cells(self, centers: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        """The cells that may learn the boxes around the centres (G, 2): row, column, and which do, each (S, G)."""
        (height, width), (x, y), offset = grid_hw, centers.unbind(1), self.neighbor_offset
        left, right = self._near(x, width)
        upper, lower = self._near(y, height)
        # own, left, upper, right, lower
        learns = torch.stack([torch.ones_like(left), left, upper, right, lower])
        cell_x = torch.stack([x, x - offset, x, x + offset, x]).floor().long().clamp(0, width - 1)
        cell_y = torch.stack([y, y, y - offset, y, y + offset]).floor().long().clamp(0, height - 1)
        # without an offset no neighbour learns
        return tuple(field if offset else field[:1] for field in (cell_y, cell_x, learns))

    def _near(self, center: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Which centres (G,), along an axis of ``size`` cells, are near to the cell before and to the one after."""
        return tuple((distance % 1 < self.neighbor_offset) & (distance > 1) for distance in (center, size - center))
