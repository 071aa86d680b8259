"""Deformable attention against mmcv's form in plain PyTorch."""

import torch
from mmcv.ops.multi_scale_deform_attn import (
    MultiScaleDeformableAttnFunction,
    multi_scale_deformable_attn_pytorch,
)

SHAPES = torch.tensor([[6, 5], [3, 2], [1, 1]])
STARTS = torch.tensor([0, 30, 36])


def inputs(dtype: torch.dtype) -> list[torch.Tensor]:
    """Value (2, 37, 2, 3), locations (2, 4, 2, 3, 5, 2) also outside the maps, weights (2, 4, 2, 3, 5)."""
    generator = torch.Generator().manual_seed(0)
    value = torch.randn(2, 37, 2, 3, generator=generator, dtype=dtype)
    locations = torch.rand(2, 4, 2, 3, 5, 2, generator=generator, dtype=dtype) * 1.4 - 0.2
    weights = torch.rand(2, 4, 2, 3, 5, generator=generator, dtype=dtype)
    return [tensor.requires_grad_() for tensor in (value, locations, weights)]


def test_equals_mmcv_forward_and_backward() -> None:
    value, locations, weights = inputs(torch.double)
    ours = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    reference = multi_scale_deformable_attn_pytorch(value, SHAPES, locations, weights)
    assert ours.shape == (2, 4, 6)
    assert torch.allclose(ours, reference, atol=1e-12)
    upstream = torch.arange(ours.numel(), dtype=torch.double).view_as(ours).cos()
    gradients = [torch.autograd.grad(output, (value, locations, weights), upstream) for output in (ours, reference)]
    for our_gradient, gradient in zip(*gradients, strict=True):
        assert torch.allclose(our_gradient, gradient, atol=1e-9)


def test_half_precision_stays_half() -> None:
    value, locations, weights = inputs(torch.float)
    exact = MultiScaleDeformableAttnFunction.apply(value, SHAPES, STARTS, locations, weights, 64)
    half = MultiScaleDeformableAttnFunction.apply(value.half(), SHAPES, STARTS, locations, weights, 64)
    assert half.dtype == torch.half
    assert torch.allclose(half.float(), exact, atol=0.05)
