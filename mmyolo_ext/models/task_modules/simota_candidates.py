"""The places that may learn a box: all anchors of the cells around its centre, on every level.

Letters: G boxes of all pictures, K candidates of a box, A anchors of a level, M places of a picture, running level,
anchor, row, column.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor


class Candidates(NamedTuple):
    """K places for each box, as many for all; those not ``inside`` stand for nothing. Long tensors.

    Attributes:
        level: (K,).
        anchor: (K,).
        cell_y: (G, K).
        cell_x: (G, K).
        place: (G, K), from 0 to M - 1.
        inside: (G, K) bool: within the radius of the centre, and in the grid.
    """

    level: Tensor
    anchor: Tensor
    cell_y: Tensor
    cell_x: Tensor
    place: Tensor
    inside: Tensor


def candidates_around(
    centers: Tensor,
    radius: float,
    num_anchors: Sequence[int],
    strides: Sequence[int],
    grid_sizes_hw: Sequence[tuple[int, int]],
) -> Candidates:
    """Cells whose middle is nearer to the centre than ``radius`` cells of their level, along both axes.

    Args:
        centers: (G, 2) px; one outside the picture counts as on its border.
        radius: in cells, above 1/2, so that the cell of the centre is always one of them.
        num_anchors: A of each level.
        strides: of each level, px.
        grid_sizes_hw: of each level, cells.
    """
    first_place, parts = 0, []
    for level, (count, stride, (height, width)) in enumerate(zip(num_anchors, strides, grid_sizes_hw, strict=True)):
        cell_x, in_x = _cells_along(centers[:, 0] / stride, radius, width)
        cell_y, in_y = _cells_along(centers[:, 1] / stride, radius, height)
        anchor = torch.arange(count, device=centers.device)
        # (G, A, rows, columns) -> (G, A * rows * columns)
        shape = (len(centers), count, cell_y.shape[1], cell_x.shape[1])
        y = cell_y[:, None, :, None].expand(shape).flatten(1)
        x = cell_x[:, None, None, :].expand(shape).flatten(1)
        inside = (in_y[:, None, :, None] & in_x[:, None, None, :]).expand(shape).flatten(1)
        anchors = anchor[:, None, None].expand(shape[1:]).flatten()
        place = first_place + (anchors * height + y) * width + x
        parts.append(Candidates(torch.full_like(anchors, level), anchors, y, x, place, inside))
        first_place += count * height * width
    return Candidates(*(torch.cat(field, dim=-1) for field in zip(*parts, strict=True)))


def _cells_along(centers: Tensor, radius: float, size: int) -> tuple[Tensor, Tensor]:
    """For each centre (G,), in cells of an axis of ``size``: cells (G, ceil(2 radius)), and which of them count."""
    centers = centers.clamp(min=0, max=size)
    # the middle of cell i is i + 1/2: the first one above centre - radius
    first = (centers - radius - 0.5).floor() + 1
    cells = first[:, None] + torch.arange(math.ceil(2 * radius), device=centers.device)
    near = (cells + 0.5 - centers[:, None]).abs() < radius
    inside = near & (cells >= 0) & (cells < size)
    return cells.clamp(0, size - 1).long(), inside
