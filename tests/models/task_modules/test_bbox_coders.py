"""Box coders: formulas by hand, that decoding undoes encoding, and finite gradients."""

import math

import pytest
import torch

from mmyolo_ext.models.task_modules import YOLOv3BBoxCoder, YOLOv5BBoxCoder

LN3 = math.log(3)
CODERS = pytest.mark.parametrize('coder', [YOLOv5BBoxCoder(), YOLOv3BBoxCoder()], ids=['yolov5', 'yolov3'])


@pytest.mark.parametrize(
    ('coder', 'raw', 'expected'),
    [
        # sigma(0) = 1/2: centre = 2/2 - 1/2 + cell, the middle of the cell; size = (2/2)^2 anchor, the anchor's own
        (YOLOv5BBoxCoder(), [0, 0, 0, 0], [3.5, 5.5, 2, 4]),
        # sigma(ln 3) = 3/4: centre = 1.5 - 0.5 + cell; size = 1.5^2 anchor
        (YOLOv5BBoxCoder(), [LN3, 0, LN3, 0], [4, 5.5, 4.5, 4]),
        # exp(0) = 1; exp(ln 3) = 3
        (YOLOv3BBoxCoder(), [0, 0, 0, 0], [3.5, 5.5, 2, 4]),
        (YOLOv3BBoxCoder(), [LN3, 0, LN3, math.log(0.5)], [3.75, 5.5, 6, 2]),
    ],
)
def test_decode_by_hand(coder, raw: list[float], expected: list[float]) -> None:
    boxes = coder.decode(torch.tensor([raw]).float(), torch.tensor([[3.0, 5.0]]), torch.tensor([2.0, 4.0]))
    torch.testing.assert_close(boxes, torch.tensor([expected]).float())


def test_a_wild_prediction_is_bounded_with_a_finite_gradient() -> None:
    raw = torch.tensor([[0.0, 0.0, 1e4, 8.0]], requires_grad=True)  # exp(8) = 2981
    boxes = YOLOv3BBoxCoder().decode(raw, torch.zeros(1, 2), torch.tensor([2.0, 4.0]))
    assert boxes[0, 2:].tolist() == pytest.approx([2000, 4000])
    boxes.sum().backward()
    assert raw.grad.isfinite().all()
    assert raw.grad[0, 2:].tolist() == [0, 0]


@CODERS
def test_decode_undoes_encode(coder) -> None:
    generator = torch.Generator().manual_seed(0)
    cells = torch.randint(0, 80, (500, 2), generator=generator)
    anchors = torch.rand(500, 2, generator=generator) * 20 + 0.5
    offsets, growth = (torch.rand(500, 2, generator=generator) for _ in range(2))
    if isinstance(coder, YOLOv5BBoxCoder):  # half a cell beyond the cell, up to four times the anchor
        offsets, growth = offsets * 1.98 - 0.49, growth * 3.9 + 0.05
    else:
        offsets, growth = offsets * 0.98 + 0.01, torch.exp(growth * 12 - 6)
    boxes = torch.cat([cells + offsets, anchors * growth], dim=1)
    torch.testing.assert_close(coder.decode(coder.encode(boxes, cells, anchors), cells, anchors), boxes)


@pytest.mark.parametrize(
    ('coder', 'box', 'nearest'),
    [
        # reach of the cell: centres 2.5 to 4.5, sizes 0 to 4
        (YOLOv5BBoxCoder(), [9.0, 0, 9, 9], [4.5, 2.5, 4, 4]),
        (YOLOv5BBoxCoder(), [3.5, 3.5, 0, -1], [3.5, 3.5, 0, 0]),
        # the cell itself, up to 1000 times the anchor
        (YOLOv3BBoxCoder(), [9.0, 0, 2000, 2], [4, 3, 1000, 2]),
        (YOLOv3BBoxCoder(), [3.5, 3.5, 0, -1], [3.5, 3.5, 0, 0]),
    ],
)
def test_encode_gives_the_nearest_box_in_reach(coder, box: list[float], nearest: list[float]) -> None:
    cell, anchor = torch.tensor([[3, 3]]), torch.tensor([[1.0, 1.0]])
    raw = coder.encode(torch.tensor([box]), cell, anchor)
    assert raw.isfinite().all()
    assert coder.decode(raw, cell, anchor)[0].tolist() == pytest.approx(nearest, rel=1e-6, abs=1e-4)


@CODERS
def test_empty(coder) -> None:
    nothing = torch.zeros(0, 4)
    assert coder.decode(nothing, torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0, 4)
    assert coder.encode(nothing, torch.zeros(0, 2), torch.zeros(0, 2)).shape == (0, 4)
