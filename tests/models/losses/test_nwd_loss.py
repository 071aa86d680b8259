"""Normalised Wasserstein distance: by hand, its gradient, boxes without area, units."""

import math

import pytest
import torch

from mmyolo_ext.models.losses import NWDLoss, SumLoss
from mmyolo_ext.models.losses.box_losses import paired_nwd

# centres (2, 1) and (5, 5): 9 + 16; half sizes (2, 1) and (3, 1.5): 1 + 0.25. W^2 = 26.25
BOX = torch.tensor([[0.0, 0.0, 4.0, 2.0]])
TARGET = torch.tensor([[2.0, 3.5, 8.0, 6.5]])
DISTANCE = math.sqrt(26.25)


def test_by_hand() -> None:
    assert paired_nwd(BOX, TARGET, scale=10.0).item() == pytest.approx(math.exp(-DISTANCE / 10))
    assert paired_nwd(TARGET, BOX, scale=10.0).item() == pytest.approx(math.exp(-DISTANCE / 10))
    assert NWDLoss(scale=10.0, loss_weight=2.0)(BOX, TARGET).item() == pytest.approx(2 - 2 * math.exp(-DISTANCE / 10))


def test_equal_boxes_lose_nothing_and_pass_no_gradient() -> None:
    boxes = BOX.clone().requires_grad_()
    loss = NWDLoss()(boxes, BOX)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-4)
    assert (boxes.grad == 0).all()


def test_a_stride_turns_grid_units_into_pixels() -> None:
    in_pixels = NWDLoss(scale=10.0)(BOX * 8, TARGET * 8)
    torch.testing.assert_close(NWDLoss(scale=10.0)(BOX, TARGET, stride=8), in_pixels)
    in_a_sum = SumLoss([{'type': 'mmyolo_ext.NWDLoss', 'scale': 10.0}])
    torch.testing.assert_close(in_a_sum(BOX, TARGET, stride=8), in_pixels)


def test_gradient_against_finite_differences() -> None:
    boxes, targets = torch.rand(2, 10, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 9
    assert torch.autograd.gradcheck(lambda boxes: paired_nwd(boxes, targets, 5.0), boxes.requires_grad_())


def test_half_precision_empty_and_degenerate_input() -> None:
    with torch.autocast('cpu', dtype=torch.bfloat16):
        loss = NWDLoss(scale=10.0)(BOX.bfloat16(), TARGET.bfloat16())
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1 - math.exp(-DISTANCE / 10), abs=1e-6)  # these numbers are exact in bfloat16
    assert NWDLoss()(torch.zeros(0, 4), torch.zeros(0, 4), avg_factor=1).item() == 0
    points = torch.tensor([[1.0, 1, 1, 1], [3, 3, 1, 1], [-1e6, -1e6, 1e6, 1e6]], requires_grad=True)
    loss = NWDLoss()(points, torch.tensor([[1.0, 1, 1, 1]]).expand(3, 4))
    loss.backward()
    assert loss.isfinite()
    assert points.grad.isfinite().all()


def test_weights() -> None:
    loss = NWDLoss(scale=10.0)
    value = 1 - math.exp(-DISTANCE / 10)
    pair = BOX.expand(2, 4), TARGET.expand(2, 4)
    assert loss(*pair, torch.tensor([0.5, 1.0]), avg_factor=3).item() == pytest.approx(1.5 * value / 3)
    assert loss(*pair, torch.full((2, 4), 0.5), avg_factor=1).item() == pytest.approx(value)


def test_bad_scale() -> None:
    with pytest.raises(ValueError, match='scale must be above 0, got 0'):
        NWDLoss(scale=0)
