"""YOLOv3's box code: its formula by hand, that decoding undoes encoding, and finite gradients."""

import math

import pytest
import torch

from mmyolo_ext.models.task_modules import YOLOv3BBoxCoder


def test_decode_by_hand() -> None:
    # sigma(0) = 1/2, exp(0) = 1; sigma(ln 3) = 3/4, exp(ln 3) = 3
    raw = torch.tensor([[0.0, 0.0, 0.0, 0.0], [math.log(3), 0.0, math.log(3), math.log(0.5)]])
    boxes = YOLOv3BBoxCoder().decode(raw, torch.tensor([[3.0, 5.0], [3.0, 5.0]]), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(boxes, torch.tensor([[3.5, 5.5, 2.0, 4.0], [3.75, 5.5, 6.0, 2.0]]))


def test_a_wild_prediction_is_bounded_with_a_finite_gradient() -> None:
    raw = torch.tensor([[0.0, 0.0, 1e4, 8.0]], requires_grad=True)  # exp(8) = 2981
    boxes = YOLOv3BBoxCoder().decode(raw, torch.zeros(1, 2), torch.tensor([2.0, 4.0]))
    assert boxes[0, 2:].tolist() == pytest.approx([2000, 4000])
    boxes.sum().backward()
    assert raw.grad.isfinite().all()
    assert raw.grad[0, 2:].tolist() == [0, 0]


def test_decode_undoes_encode() -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 80, (500, 2), generator=generator)
    anchors = torch.rand(500, 2, generator=generator) * 20 + 0.5
    offsets = torch.rand(500, 2, generator=generator) * 0.98 + 0.01
    sizes = anchors * torch.exp(torch.rand(500, 2, generator=generator) * 12 - 6)
    boxes = torch.cat([cells + offsets, sizes], dim=1)
    coder = YOLOv3BBoxCoder()
    torch.testing.assert_close(coder.decode(coder.encode(boxes, cells, anchors), cells, anchors), boxes)


def test_encode_gives_the_nearest_where_there_is_none() -> None:
    coder, cell, anchor = YOLOv3BBoxCoder(), torch.tensor([[3, 3]]), torch.tensor([[1.0, 1.0]])
    for box, nearest in [([9.0, 0, 2000, 2], [4, 3, 1000, 2]), ([3.5, 3.5, 0, -1], [3.5, 3.5, 0, 0])]:
        raw = coder.encode(torch.tensor([box]), cell, anchor)
        assert raw.isfinite().all()
        assert coder.decode(raw, cell, anchor)[0].tolist() == pytest.approx(nearest, rel=1e-6, abs=1e-4)


def test_empty() -> None:
    coder, nothing = YOLOv3BBoxCoder(), torch.zeros(0, 4)
    assert coder.decode(nothing, torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0, 4)
    assert coder.encode(nothing, torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0, 4)
