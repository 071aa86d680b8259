"""The box code: its formula by hand, and that decoding undoes encoding."""

import math

import pytest
import torch

from mmyolo_ext.models.task_modules import YOLOv5BBoxCoder


def test_decode_by_hand() -> None:
    # sigma(0) = 1/2: centre = 2/2 - 1/2 + cell, the middle of the cell; size = (2/2)^2 anchor, the anchor's own
    # sigma(ln 3) = 3/4: centre = 1.5 - 0.5 + cell; size = 1.5^2 anchor
    raw = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, math.log(3), 0.0]])
    boxes = YOLOv5BBoxCoder().decode(raw, torch.tensor([[3.0, 5.0], [3.0, 5.0]]), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(boxes, torch.tensor([[3.5, 5.5, 2.0, 4.0], [4.0, 5.5, 4.5, 4.0]]))


def test_decode_undoes_encode() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 80, (500, 2), generator=generator)
    anchors = torch.rand(500, 2, generator=generator) * 20 + 0.5
    offsets = torch.rand(500, 2, generator=generator) * 1.98 - 0.49  # within half a cell of the cell
    sizes = anchors * (torch.rand(500, 2, generator=generator) * 3.9 + 0.05)  # up to four times the anchor
    boxes = torch.cat([cells + offsets, sizes], dim=1)
    coder = YOLOv5BBoxCoder()
    torch.testing.assert_close(coder.decode(coder.encode(boxes, cells, anchors), cells, anchors), boxes)


def test_encode_gives_the_nearest_where_there_is_none() -> None:
    coder, cell, anchor = YOLOv5BBoxCoder(), torch.tensor([[3, 3]]), torch.tensor([[1.0, 1.0]])
    # reach of the cell: centres 2.5 to 4.5, sizes 0 to 4
    for box, nearest in [([9.0, 0, 9, 9], [4.5, 2.5, 4, 4]), ([3.5, 3.5, 0, -1], [3.5, 3.5, 0, 0])]:
        raw = coder.encode(torch.tensor([box]), cell, anchor)
        assert raw.isfinite().all()
        assert coder.decode(raw, cell, anchor)[0].tolist() == pytest.approx(nearest, abs=1e-4)


def test_empty() -> None:
    coder, nothing = YOLOv5BBoxCoder(), torch.zeros(0, 4)
    assert coder.decode(nothing, torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0, 4)
    assert coder.encode(nothing, torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0, 4)
