"""Deformable RoI pooling against RoIAlign of moved regions and finite differences."""

import torch
from mmcv.ops import deform_roi_pool, roi_align


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


def test_no_regions() -> None:
    output = deform_roi_pool(torch.ones(1, 2, 4, 4), torch.zeros(0, 5), torch.zeros(0, 2, 3, 3), 3)
    assert output.shape == (0, 2, 3, 3)
