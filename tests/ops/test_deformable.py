"""Deformable convolution against ordinary convolution, a loop over taps, and finite differences."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import deform_conv2d, modulated_deform_conv2d
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

from mmyolo_ext.ops import deformable as deform_conv

# stride, padding, dilation
GEOMETRIES = [(1, 1, 1), (2, 1, 1), ((1, 2), (2, 0), (2, 1))]


def inputs(seed: int, output_size: tuple[int, int], offset_groups: int, groups: int = 1) -> list[torch.Tensor]:
    """Maps (2, 4, 7, 6), offsets, mask, weight (6, 4 / groups, 3, 2), in float64."""
    rng = np.random.RandomState(seed)
    taps = 6 * offset_groups
    shapes = [(2, 4, 7, 6), (2, 2 * taps, *output_size), (2, taps, *output_size), (6, 4 // groups, 3, 2)]
    return [torch.from_numpy(rng.rand(*shape) * 3 - 1.5).requires_grad_() for shape in shapes]


def output_size(stride: object, padding: object, dilation: object) -> tuple[int, int]:
    return tuple(F.conv2d(torch.zeros(1, 1, 7, 6), torch.zeros(1, 1, 3, 2), None, stride, padding, dilation).shape[2:])


@pytest.mark.parametrize('geometry', GEOMETRIES)
@pytest.mark.parametrize('groups', [1, 2])
def test_without_offset_it_is_a_convolution(geometry: tuple, groups: int) -> None:
    maps, offset, mask, weight = inputs(0, output_size(*geometry), 2, groups)
    still, open_mask = torch.zeros_like(offset), torch.ones_like(mask)
    expected = F.conv2d(maps, weight, None, *geometry, groups)
    bias = torch.arange(6.0, dtype=torch.double)
    assert torch.allclose(deform_conv2d(maps, still, weight, *geometry, groups, 2), expected)
    v2 = modulated_deform_conv2d(maps, still, open_mask * 0.5, weight, bias, *geometry, groups, 2)
    assert torch.allclose(v2, expected / 2 + bias[:, None, None])


@pytest.mark.parametrize('geometry', GEOMETRIES)
def test_equals_the_loop(geometry: tuple) -> None:
    maps, offset, mask, weight = inputs(1, output_size(*geometry), 2)
    output = modulated_deform_conv2d(maps, offset, mask, weight, None, *geometry, 1, 2)
    expected = loop(*(tensor.detach().numpy() for tensor in (maps, offset, mask, weight)), *geometry)
    np.testing.assert_allclose(output.detach().numpy(), expected, atol=1e-12)


def loop(maps: np.ndarray, offset: np.ndarray, mask: np.ndarray, weight: np.ndarray, *geometry: object) -> np.ndarray:
    """Two offset groups of two channels; one tap of one channel at a time."""
    (stride_y, stride_x), (pad_y, pad_x), (step_y, step_x) = (np.broadcast_to(pair, 2) for pair in geometry)
    output = np.zeros((2, 6, *offset.shape[2:]))
    for n, c, i, j, row, column in np.ndindex(2, 4, 3, 2, *offset.shape[2:]):
        tap = (c // 2) * 6 + i * 2 + j
        y = row * stride_y - pad_y + i * step_y + offset[n, 2 * tap, row, column]
        x = column * stride_x - pad_x + j * step_x + offset[n, 2 * tap + 1, row, column]
        value = mask[n, tap, row, column] * bilinear(maps[n, c], y, x)
        output[n, :, row, column] += weight[:, c, i, j] * value
    return output


def bilinear(single: np.ndarray, y: float, x: float) -> float:
    """Pixels outside the map are 0."""
    padded = np.pad(single, 12)
    top, left = int(np.floor(y)), int(np.floor(x))
    dy, dx = y - top, x - left
    window = padded[top + 12 : top + 14, left + 12 : left + 14]
    return np.array([1 - dy, dy]) @ window @ np.array([1 - dx, dx])


def test_gradients_equal_finite_differences() -> None:
    maps, offset, mask, weight = inputs(2, (7, 7), 1)
    bias = torch.zeros(6, dtype=torch.double, requires_grad=True)
    v1 = (maps, offset, weight)
    assert torch.autograd.gradcheck(lambda m, o, w: deform_conv2d(m, o, w, 1, 1, 1, 1, 1), v1, fast_mode=True)
    assert torch.autograd.gradcheck(
        lambda m, o, k, w, b: modulated_deform_conv2d(m, o, k, w, b, 1, 1, 1, 1, 1),
        (maps, offset, mask, weight, bias),
        fast_mode=True,
    )


def test_far_offsets_read_zero() -> None:
    maps, offset, _, weight = inputs(3, (7, 7), 1)
    for far in (1e4, -1e9, float('inf')):
        assert (deform_conv2d(maps, torch.full_like(offset, far), weight, 1, 1) == 0).all()


def test_offsets_of_a_larger_map_are_read_as_the_compiled_op_does() -> None:
    """DyHead gives a map half the size of the offsets: the first values of each image's buffer count."""
    maps, offset, mask, weight = inputs(4, (14, 12), 1)
    leading = [
        tensor.detach().flatten(1)[:, : rows * 42].view(2, rows, 7, 6) for tensor, rows in ((offset, 12), (mask, 6))
    ]
    small = modulated_deform_conv2d(maps, *leading, weight, None, 1, (1, 1), (1, 2), 1, 1)
    assert torch.equal(modulated_deform_conv2d(maps, offset, mask, weight, None, 1, (1, 1), (1, 2), 1, 1), small)


@pytest.mark.parametrize('torchvision', [False, True])
def test_no_slope_at_exactly_minus_one(monkeypatch: pytest.MonkeyPatch, torchvision: bool) -> None:
    """A 1x1 kernel on a map of 2 x 2 whose offsets read at (-1, 0), (0, -1), (-0.5, 0) and (1, 2)."""
    if torchvision:  # autograd's slope at -1 is torchvision's: that of the points to its right
        monkeypatch.setattr(deform_conv, 'torchvision_ops', lambda _: TorchvisionLike)
    maps = torch.tensor([[[[2.0, 3.0], [5.0, 7.0]]]], dtype=torch.double)
    points = torch.tensor([[[-1.0, 0], [0, -1]], [[-0.5, 0], [1, 2]]], dtype=torch.double)  # row, column, (y, x)
    cells = torch.tensor([[[0.0, 0], [0, 1]], [[1, 0], [1, 1]]], dtype=torch.double)
    offset = (points - cells).permute(2, 0, 1)[None].requires_grad_()
    output = deform_conv2d(maps, offset, torch.ones(1, 1, 1, 1, dtype=torch.double), 1, 0)
    output.sum().backward()
    # half of the pixel 2 at (-0.5, 0); the others are outside
    assert output.flatten().tolist() == [0, 0, 1, 0]
    # along y it grows by 2 a pixel; along x, half of 3 - 2
    assert offset.grad.flatten().tolist() == [0, 0, 2, 0, 0, 0, 0.5, 0]


class TorchvisionLike:
    @staticmethod
    def deform_conv2d(input, offset, weight, bias, stride, padding, dilation, mask):
        """A 1x1 kernel; the four pixels of a point, and the slopes of autograd."""
        padded = F.pad(input[0, 0], (9, 9, 9, 9))
        y, x = offset[0, 0] + torch.tensor([[0.0], [1]]), offset[0, 1] + torch.tensor([[0.0, 1]])
        top, left = y.floor().long(), x.floor().long()
        dy, dx = y - top, x - left
        rows = [(1 - dx) * padded[row + 9, left + 9] + dx * padded[row + 9, left + 10] for row in (top, top + 1)]
        return weight * ((1 - dy) * rows[0] + dy * rows[1])


SHAPES = torch.tensor([[6, 5], [3, 2], [1, 1]])
STARTS = torch.tensor([0, 30, 36])


def inputs_deform_attn(dtype: torch.dtype) -> list[torch.Tensor]:
    """Value (2, 37, 2, 3), locations (2, 4, 2, 3, 5, 2) also outside the maps, weights (2, 4, 2, 3, 5)."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 37, 2, 3, generator=generator, dtype=dtype)
    locations = torch.rand(2, 4, 2, 3, 5, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 4, 2, 3, 5, generator=generator, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)]


def test_equals_mmcv_forward_and_backward() -> None:
    value, locations, weights = inputs_deform_attn(torch.double)
    ours = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    reference = multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)
    assert ours.shape == (2, 4, 6)
    assert torch.allclose(ours, reference, atol=1e-12)
    upstream = torch.arange(ours.numel(), dtype=torch.double).view_as(ours).cos()
    gradients = [torch.autograd.grad(output, (value, locations, weights), upstream) for output in (ours, reference)]
    for our_gradient, gradient in zip(*gradients, strict=True):
        assert torch.allclose(our_gradient, gradient, atol=1e-9)


def test_half_precision_stays_half() -> None:
    value, locations, weights = inputs_deform_attn(torch.float)
    exact = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    half = MultiScaleDeformableAttnFunction.apply(value.half(), SHAPES, STARTS, locations, weights, 64)
    assert half.dtype == torch.half
    assert torch.allclose(half.float(), exact, atol=0.05)
