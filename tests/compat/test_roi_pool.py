"""RoIPool against hand-derived values and finite differences."""

import torch
from mmcv.ops import roi_pool

# Value = 10 y + x at pixel (y, x)
MAP = (10 * torch.arange(6.0)[:, None] + torch.arange(8.0)).view(1, 1, 6, 8)


def test_by_hand() -> None:
    # Pixels x 1-4, y 2-3, both ends included: 4 x 2 pixels; 2 bins of 2 x 1 along each side.
    assert roi_pool(MAP, torch.tensor([[0, 1.0, 2, 4, 3]]), 2).flatten().tolist() == [22, 24, 32, 34]
    # 3 pixels in 2 bins: edges at 0, 1.5, 3; the middle pixel belongs to both.
    assert roi_pool(MAP, torch.tensor([[0, 0.0, 0, 2, 0]]), (1, 2)).flatten().tolist() == [1, 2]
    # Halved coordinates: x (0 to 8) / 2 = 0 to 4, y (0 to 4) / 2 = 0 to 2.
    assert roi_pool(MAP, torch.tensor([[0, 0.0, 0, 7, 3]]), 1, 0.5).item() == 13


def test_outside_and_inverted_regions_are_zero() -> None:
    regions = torch.tensor([[0, 20.0, 20, 30, 30], [0, 5.0, 5, 1, 1]])
    maps = MAP.clone().requires_grad_()
    output = roi_pool(maps, regions, 2)
    assert (output == 0).all()
    output.sum().backward()
    assert (maps.grad == 0).all()


def test_gradient_equals_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    maps = torch.rand(2, 3, 5, 6, generator=generator, dtype=torch.double).requires_grad_()
    regions = torch.tensor([[1, 0, 0, 7, 8], [0, 2, 3, 11, 5], [1, 4, 4, 4, 4]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda x: roi_pool(x, regions, (2, 3), 0.5), (maps,))


def test_gradient_goes_to_the_maximum() -> None:
    maps = MAP.clone().requires_grad_()
    roi_pool(maps, torch.tensor([[0, 1.0, 2, 4, 3]]), 1).sum().backward()
    assert maps.grad.nonzero().tolist() == [[0, 0, 3, 4]]
