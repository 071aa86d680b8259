"""The assigner against the formula written as loops, on cells worked out by hand, and at the borders."""

import math

import pytest
import torch
from torch import Tensor

from mmyolo_ext.models.task_modules import Positives, YOLOv5Assigner

STRIDES = (8, 16)
ANCHORS_PX = torch.tensor([[[10.0, 13], [16, 30], [33, 23]], [[30, 61], [62, 45], [59, 119]]])
GRIDS_HW = [(6, 10), (3, 5)]  # an image of 48 x 80 px


def assign(boxes: Tensor, image: Tensor | None = None, **kwargs) -> list[Positives]:
    image = torch.zeros(len(boxes), dtype=torch.long) if image is None else image
    return YOLOv5Assigner(**kwargs).assign(boxes, image, ANCHORS_PX, STRIDES, GRIDS_HW)


def assign_by_loops(boxes: Tensor, image: Tensor, threshold: float = 4.0) -> list[list[tuple]]:
    """DESIGN's rule, one box, anchor and direction at a time: sorted (image, anchor, row, column, box)."""
    levels = []
    for anchors, stride, (rows, columns) in zip(ANCHORS_PX, STRIDES, GRIDS_HW, strict=True):
        found = []
        for g, box in enumerate(boxes.tolist()):
            x, y, w, h = (value / stride for value in box)
            for a, anchor in enumerate(anchors.tolist()):
                w_a, h_a = (value / stride for value in anchor)
                if max(w / w_a, w_a / w, h / h_a, h_a / h) >= threshold:
                    continue
                cells = [(math.floor(x), math.floor(y))]
                if x % 1 < 0.5 and x > 1:
                    cells.append((math.floor(x - 0.5), math.floor(y)))
                if y % 1 < 0.5 and y > 1:
                    cells.append((math.floor(x), math.floor(y - 0.5)))
                if (columns - x) % 1 < 0.5 and columns - x > 1:
                    cells.append((math.floor(x + 0.5), math.floor(y)))
                if (rows - y) % 1 < 0.5 and rows - y > 1:
                    cells.append((math.floor(x), math.floor(y + 0.5)))
                for column, row in cells:
                    column, row = min(max(column, 0), columns - 1), min(max(row, 0), rows - 1)
                    found.append((int(image[g]), a, row, column, g))
        levels.append(sorted(found))
    return levels


def as_rows(positives: Positives) -> list[tuple]:
    fields = (positives.image, positives.anchor, positives.cell_y, positives.cell_x, positives.gt)
    return sorted(zip(*(field.tolist() for field in fields), strict=True))


@pytest.mark.parametrize('seed', range(5))
def test_equals_the_loops(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(60, 2, generator=generator) * torch.tensor([80.0, 48])
    centers[::3] = (centers[::3] / 4).round() * 4  # on the borders and middles of cells
    boxes = torch.cat([centers, torch.rand(60, 2, generator=generator) * 70 + 2], dim=1)
    image = torch.randint(0, 3, (60,), generator=generator)
    assert [as_rows(level) for level in assign(boxes, image)] == assign_by_loops(boxes, image)


@pytest.mark.parametrize(
    ('center', 'cells'),
    [
        # in cells of 8 px, (row, column); x = 4.25: nearer to the left; y = 2.75: nearer to the lower
        ((34, 22), [(2, 3), (2, 4), (3, 4)]),
        # x = y = 2.5: exactly between, neither is nearer on the left (frac < 1/2 fails) nor on the right (10 - 2.5)
        ((20, 20), [(2, 2)]),
        # x = 0.25, y = 0.25: no neighbour outside the grid
        ((2, 2), [(0, 0)]),
        # x = 9.75, y = 5.75: likewise at the far end
        ((78, 46), [(5, 9)]),
        # x = 9.25: the left one
        ((74, 46), [(5, 8), (5, 9)]),
        # the far corner itself, x = 10, y = 6: clamped into the grid; floor(9.5) = 9 and floor(5.5) = 5 likewise
        ((80, 48), [(5, 9), (5, 9), (5, 9)]),
        # x = 1 exactly: not greater than 1, no left one; the right one, floor(1.5) = 1, is its own cell again
        ((8, 20), [(2, 1), (2, 1)]),
    ],
)
def test_cells_by_hand(center: tuple[int, int], cells: list[tuple[int, int]]) -> None:
    positives = assign(torch.tensor([[*center, 10.0, 13.0]]))[0]
    own_anchor = positives.anchor == 0
    rows = zip(positives.cell_y[own_anchor].tolist(), positives.cell_x[own_anchor].tolist(), strict=True)
    assert sorted(rows) == cells


def test_ratio_is_strict() -> None:
    # anchor 0 of stride 8 is 10 x 13: a box of 40 x 13 has the ratio 4, which is not below 4
    assert 0 not in assign(torch.tensor([[20.0, 20, 40, 13]]))[0].anchor
    assert 0 in assign(torch.tensor([[20.0, 20, 39, 13]]))[0].anchor
    assert 0 not in assign(torch.tensor([[20.0, 20, 39, 13]]), prior_match_thr=2.0)[0].anchor
    assert 0 not in assign(torch.tensor([[20.0, 20, 2.5, 13]]))[0].anchor


def test_own_cell_only() -> None:
    for level in assign(torch.tensor([[34.0, 22, 20, 20]]), neighbor_offset=0.0):
        cells = set(zip(level.cell_y.tolist(), level.cell_x.tolist(), strict=True))
        assert len(cells) == 1


def test_no_boxes() -> None:
    for level in assign(torch.zeros(0, 4)):
        assert len(level) == 0
        assert all(field.dtype == torch.long and field.shape == (0,) for field in (*level[:4], level.gt))


def test_fields_are_long_and_in_range() -> None:
    boxes = torch.tensor([[-3.0, -3, 30, 30], [95, 60, 30, 30]])  # centres outside the image
    for level, (rows, columns) in zip(assign(boxes), GRIDS_HW, strict=True):
        assert all(field.dtype == torch.long for field in (*level[:4], level.gt))
        assert level.cell_y.min() >= 0
        assert level.cell_y.max() < rows
        assert level.cell_x.min() >= 0
        assert level.cell_x.max() < columns


@pytest.mark.parametrize('bad', [{'prior_match_thr': 1.0}, {'neighbor_offset': 0.7}, {'neighbor_offset': -0.1}])
def test_thresholds_out_of_range(bad: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        YOLOv5Assigner(**bad)
