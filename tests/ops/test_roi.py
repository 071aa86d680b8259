"""Check RoIAlign and deformable RoI pooling by hand-derived values, a loop over samples, and finite differences."""

import math

import numpy as np
import pytest
import torch
from mmcv.ops import deform_roi_pool, roi_align
from op_cases import rois as random_rois

from mmyolo_ext.ops import MissingOpError

SETTINGS = [(ratio, aligned) for ratio in (0, 1, 3) for aligned in (False, True)]


def loop_roi_align(
    maps: np.ndarray, rois: np.ndarray, size: tuple[int, int], scale: float, ratio: int, aligned: bool
) -> np.ndarray:
    """One sample at a time."""
    output = np.zeros((len(rois), maps.shape[1], *size))
    for r, (image, *corners) in enumerate(rois):
        x1, y1, x2, y2 = (corner * scale - (0.5 if aligned else 0) for corner in corners)
        height, width = (y2 - y1, x2 - x1) if aligned else (max(y2 - y1, 1), max(x2 - x1, 1))
        rows = ratio or math.ceil(height / size[0])
        columns = ratio or math.ceil(width / size[1])
        for channel, single in enumerate(maps[int(image)]):
            for i in range(size[0]):
                for j in range(size[1]):
                    values = [
                        bilinear(
                            single,
                            y1 + (i + (row + 0.5) / rows) * height / size[0],
                            x1 + (j + (column + 0.5) / columns) * width / size[1],
                        )
                        for row in range(rows)
                        for column in range(columns)
                    ]
                    if values:
                        output[r, channel, i, j] = sum(values) / len(values)
    return output


def bilinear(single: np.ndarray, y: float, x: float) -> float:
    """Border continued for one pixel, 0 further out."""
    height, width = single.shape
    if not (-1 <= y <= height and -1 <= x <= width):
        return 0.0
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = min(int(y), max(height - 2, 0)), min(int(x), max(width - 2, 0))
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    dy, dx = y - top, x - left
    upper = single[top, left] * (1 - dx) + single[top, right] * dx
    lower = single[bottom, left] * (1 - dx) + single[bottom, right] * dx
    return upper * (1 - dy) + lower * dy


def test_by_hand() -> None:
    # Value = 10 y + x at pixel (y, x). Region x 1-3, y 1-3, pixel centres at half a pixel: bins of 1 x 1 with one
    # sample in the middle, x = 1 - 0.5 + 0.5 = 1 and 2, y likewise.
    maps = (10 * torch.arange(5.0)[:, None] + torch.arange(6.0)).view(1, 1, 5, 6)
    region = torch.tensor([[0, 1.0, 1, 3, 3]])
    assert roi_align(maps, region, 2, 1.0, 0, 'avg', True).flatten().tolist() == [11, 12, 21, 22]
    # Unaligned, half a pixel further on: x = 1.5 and 2.5.
    assert roi_align(maps, region, 2, 1.0, 0, 'avg', False).flatten().tolist() == [16.5, 17.5, 26.5, 27.5]
    with pytest.raises(MissingOpError, match="roi_align with pool_mode='max'.*pip install"):
        roi_align(maps, region, 2, 1.0, 2, 'max', True)


def test_border_is_continued_for_one_pixel() -> None:
    # Regions of one pixel, sampled in the middle: x = 2, and y = -0.5, -1.5, 5 and 5.5 in a map of five rows.
    maps = (10 * torch.arange(5.0)[:, None] + torch.arange(6.0)).view(1, 1, 5, 6)
    regions = torch.tensor([[0, 2.0, y, 3, y + 1] for y in (-0.5, -1.5, 5.0, 5.5)])
    assert roi_align(maps, regions, 1).flatten().tolist() == [2, 0, 42, 0]


@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_equals_the_loop(ratio: int, aligned: bool) -> None:
    rng = np.random.RandomState(3)
    maps = rng.randn(2, 3, 6, 9)
    regions = random_rois(rng, 12, 2, 24, 36).astype(float)
    expected = loop_roi_align(maps, regions, (3, 2), 0.25, ratio, aligned)
    output = roi_align(torch.from_numpy(maps), torch.from_numpy(regions), (3, 2), 0.25, ratio, 'avg', aligned)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(('ratio', 'aligned'), SETTINGS)
def test_gradient_equals_finite_differences(ratio: int, aligned: bool) -> None:
    rng = np.random.RandomState(4)
    maps = torch.from_numpy(rng.randn(2, 2, 4, 5)).requires_grad_()
    regions = torch.from_numpy(random_rois(rng, 5, 2, 8, 10).astype(float))
    assert torch.autograd.gradcheck(lambda x: roi_align(x, regions, (2, 2), 0.5, ratio, 'avg', aligned), (maps,))


def test_regions_without_samples() -> None:
    maps = torch.ones(1, 2, 4, 4, requires_grad=True)
    for region in ([0, 2.0, 2, 2, 2], [0, 3.0, 3, 1, 1]):
        output = roi_align(maps, torch.tensor([region]), 2, 1.0, 0, 'avg', True)
        assert (output == 0).all()
        assert (torch.autograd.grad(output.sum(), maps)[0] == 0).all()


def test_no_regions() -> None:
    maps = torch.ones(1, 2, 4, 4, requires_grad=True)
    output = roi_align(maps, torch.zeros(0, 5), 7)
    assert output.shape == (0, 2, 7, 7)
    output.sum().backward()
    assert (maps.grad == 0).all()


def test_half_precision_is_computed_in_float32() -> None:
    rng = np.random.RandomState(5)
    maps = torch.from_numpy(rng.rand(1, 2, 6, 6)).half()
    regions = torch.tensor([[0, 0.5, 0.5, 4, 5]])
    exact = roi_align(maps.float(), regions, 2)
    assert torch.allclose(roi_align(maps, regions.half(), 2).float(), exact, atol=1e-3)


def test_without_offset_it_is_roi_align() -> None:
    maps = torch.rand(2, 3, 8, 9, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0, 2.0, 3, 12, 9], [1, 0, 0, 17, 15]])
    expected = roi_align(maps, rois, (2, 3), 0.5, 0, 'avg', True)
    for offset in (None, torch.zeros(2, 2, 2, 3)):
        assert torch.allclose(deform_roi_pool(maps, rois, offset, (2, 3), 0.5), expected, atol=1e-6)


def test_one_offset_moves_the_region() -> None:
    # A region of 8 x 4 pixels of the map; offsets x 0.5, y -0.25 at gamma 0.5 move it by 2 and -0.5 pixels.
    maps = torch.rand(1, 2, 12, 16, generator=torch.Generator().manual_seed(1))
    region = torch.tensor([[0, 2.0, 4, 10, 8]])
    offset = torch.tensor([0.5, -0.25]).view(1, 2, 1, 1).expand(1, 2, 2, 2).contiguous()
    moved = region + torch.tensor([0, 2.0, -0.5, 2, -0.5])
    output = deform_roi_pool(maps, region, offset, 2, 1.0, 3, 0.5)
    assert torch.allclose(output, roi_align(maps, moved, 2, 1.0, 3), atol=1e-6)


def test_gradients_equal_finite_differences() -> None:
    generator = torch.Generator().manual_seed(2)
    maps = torch.rand(2, 2, 7, 8, generator=generator, dtype=torch.double).requires_grad_()
    offset = (torch.rand(2, 2, 2, 3, generator=generator, dtype=torch.double) - 0.5).requires_grad_()
    rois = torch.tensor([[0, 4.0, 4.2, 11, 9], [1, 3, 3.3, 12.4, 10]], dtype=torch.double)
    assert torch.autograd.gradcheck(lambda m, o: deform_roi_pool(m, rois, o, (2, 3), 0.5, 2, 0.1), (maps, offset))


def test_no_regions_of_deform_roi_pool() -> None:
    output = deform_roi_pool(torch.ones(1, 2, 4, 4), torch.zeros(0, 5), torch.zeros(0, 2, 3, 3), 3)
    assert output.shape == (0, 2, 3, 3)
