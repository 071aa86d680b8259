"""YOLOv5's match of boxes and priors: by the ratio of their sizes, in up to three cells a box.

Letters: G boxes of all pictures, A priors of a level, P positives (matches), L levels.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from mmyolo_ext.registry import TASK_UTILS


class Positives(NamedTuple):
    """The matches of one level: which box teaches which prior in which cell of which picture. Long tensors, (P,)."""

    image: Tensor
    prior: Tensor
    cell_y: Tensor
    cell_x: Tensor
    gt: Tensor

    def __len__(self) -> int:
        return len(self.gt)


@TASK_UTILS.register_module()
class YOLOv5Assigner:
    """Match box b (w, h) and prior a (w_a, h_a) if max(w/w_a, w_a/w, h/h_a, h_a/h) < ``prior_match_thr``.

    A matched box teaches the cell of its centre, and the two neighbours (one sideways, one up or down) that the
    centre is nearer to than ``neighbor_offset``, those inside the grid.

    Args:
        prior_match_thr: greatest ratio of sides, above 1.
        neighbor_offset: how near to a neighbour the centre must be to teach it, in cells: 0 (own cell only) to 0.5.

    Raises:
        ValueError: a threshold out of range.
    """

    def __init__(self, prior_match_thr: float = 4.0, neighbor_offset: float = 0.5) -> None:
        if not prior_match_thr > 1:
            raise ValueError(f'prior_match_thr is a ratio of sides and must be above 1, got {prior_match_thr}')
        if not 0 <= neighbor_offset <= 0.5:
            raise ValueError(f'neighbor_offset must be from 0 to 0.5, got {neighbor_offset}')
        self.prior_match_thr = prior_match_thr
        self.neighbor_offset = neighbor_offset

    def assign(
        self,
        boxes_cxcywh: Tensor,
        image: Tensor,
        priors_wh: Sequence[Tensor],
        strides: Sequence[int],
        grid_sizes_hw: Sequence[tuple[int, int]],
    ) -> list[Positives]:
        """Match the boxes of all pictures of a batch.

        Args:
            boxes_cxcywh: (G, 4) px of the network input, of positive size.
            image: (G,) long, the picture of each box.
            priors_wh: of each level (A, 2), px.
            strides: of each level, px.
            grid_sizes_hw: of each level, cells.

        Returns:
            The positives of each level; empty ones where nothing matches.
        """
        return [
            self._assign_level(boxes_cxcywh / stride, image, level_priors / stride, grid_hw)
            for level_priors, stride, grid_hw in zip(priors_wh, strides, grid_sizes_hw, strict=True)
        ]

    def _assign_level(
        self, boxes_cxcywh: Tensor, image: Tensor, priors_wh: Tensor, grid_hw: tuple[int, int]
    ) -> Positives:
        """The same for one level; boxes and priors are in its grid units."""
        gt, prior = self._match(boxes_cxcywh[:, 2:], priors_wh)
        centers = boxes_cxcywh[gt, :2]
        gt_of_cell, cells = self._cells(centers, grid_hw)
        gt, prior = gt[gt_of_cell], prior[gt_of_cell]
        return Positives(image=image[gt], prior=prior, cell_y=cells[:, 1], cell_x=cells[:, 0], gt=gt)

    def _match(self, boxes_wh: Tensor, priors_wh: Tensor) -> tuple[Tensor, Tensor]:
        """Which box fits which prior: two tensors of indices."""
        ratio = boxes_wh[:, None] / priors_wh[None]  # (G, A, 2)
        worst_ratio = torch.maximum(ratio, 1 / ratio).amax(-1)
        return torch.nonzero(worst_ratio < self.prior_match_thr, as_tuple=True)

    def _cells(self, centers: Tensor, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The cells that each centre (M, 2) teaches: the index of the centre, and the cell's column and row."""
        grid_wh = centers.new_tensor([grid_hw[1], grid_hw[0]])
        near_start = (centers % 1 < self.neighbor_offset) & (centers > 1)
        from_end = grid_wh - centers
        near_end = (from_end % 1 < self.neighbor_offset) & (from_end > 1)
        own = torch.ones_like(near_start[:, 0])
        teaches = torch.stack([own, *near_start.unbind(1), *near_end.unbind(1)])  # (5, M)
        # own, left, upper, right, lower
        shifts = centers.new_tensor([[0, 0], [-1, 0], [0, -1], [1, 0], [0, 1]]) * self.neighbor_offset
        direction, center = torch.nonzero(teaches, as_tuple=True)
        cells = (centers[center] + shifts[direction]).floor().long()
        last_cell = torch.tensor([grid_hw[1] - 1, grid_hw[0] - 1], device=cells.device)
        return center, torch.minimum(cells.clamp(min=0), last_cell)
