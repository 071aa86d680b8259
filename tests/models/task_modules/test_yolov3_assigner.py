"""YOLOv3's match: against the formula written as loops, and at the threshold."""

import math

import pytest
import torch
from torch import Tensor

from mmyolo_ext.models.task_modules import Positives, YOLOv3Assigner

STRIDES = (16, 8)  # deep to shallow, as YOLOv3 orders its levels
ANCHORS_PX = torch.tensor([[[30.0, 61], [62, 45], [59, 119]], [[10.0, 13], [16, 30], [33, 23]]])
GRIDS_HW = [(3, 5), (6, 10)]  # an image of 48 x 80 px


def assign(boxes: Tensor, image: Tensor | None = None, **kwargs) -> list[Positives]:
    image = torch.zeros(len(boxes), dtype=torch.long) if image is None else image
    return YOLOv3Assigner(**kwargs).assign(boxes, image, ANCHORS_PX, STRIDES, GRIDS_HW)


def assign_by_loops(boxes: Tensor, image: Tensor, threshold: float) -> list[list[tuple]]:
    """One box and anchor at a time: sorted (image, anchor, row, column, box) of each level."""
    levels = []
    for anchors, stride, (rows, columns) in zip(ANCHORS_PX.tolist(), STRIDES, GRIDS_HW, strict=True):
        found = []
        for g, (x, y, w, h) in enumerate(boxes.tolist()):
            for a, (w_a, h_a) in enumerate(anchors):
                overlap = min(w, w_a) * min(h, h_a)
                if overlap / (w * h + w_a * h_a - overlap) > threshold:
                    column = min(max(math.floor(x / stride), 0), columns - 1)
                    row = min(max(math.floor(y / stride), 0), rows - 1)
                    found.append((int(image[g]), a, row, column, g))
        levels.append(sorted(found))
    return levels


def as_rows(positives: Positives) -> list[tuple]:
    fields = (positives.image, positives.anchor, positives.cell_y, positives.cell_x, positives.gt)
    return sorted(zip(*(field.tolist() for field in fields), strict=True))


@pytest.mark.parametrize('threshold', [0.2, 0.5])
@pytest.mark.parametrize('seed', range(3))
def test_equals_the_loops(seed: int, threshold: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.rand(60, 2, generator=generator) * torch.tensor([80.0, 48])
    centers[::3] = (centers[::3] / 4).round() * 4  # on the borders and middles of cells
    boxes = torch.cat([centers, torch.rand(60, 2, generator=generator) * 70 + 2], dim=1)
    image = torch.randint(0, 3, (60,), generator=generator)
    expected = assign_by_loops(boxes, image, threshold)
    assert sum(map(len, expected)) > 20
    assert [as_rows(level) for level in assign(boxes, image, iou_thr=threshold)] == expected


def test_threshold_is_strict() -> None:
    # the anchor 10 x 13 against 10 x 6.5: IoU = 65 / 130 = 1/2 exactly
    box = torch.tensor([[20.0, 20, 10, 6.5]])
    assert 0 not in assign(box, iou_thr=0.5)[1].anchor
    assert 0 in assign(box, iou_thr=0.499)[1].anchor


def test_far_corner_is_clamped_into_the_grid() -> None:
    shallow = assign(torch.tensor([[80.0, 48, 10, 13]]))[1]
    assert set(as_rows(shallow)) >= {(0, 0, 5, 9, 0)}


def test_no_boxes() -> None:
    for level in assign(torch.zeros(0, 4)):
        assert len(level) == 0
        assert all(field.dtype == torch.long and field.shape == (0,) for field in (*level[:4], level.gt))


@pytest.mark.parametrize('bad', [-0.1, 1.0])
def test_threshold_out_of_range(bad: float) -> None:
    with pytest.raises(ValueError, match='iou_thr'):
        YOLOv3Assigner(iou_thr=bad)
