"""Deformable RoI pooling (Dai et al., arXiv 1703.06211): RoIAlign whose bins move by an offset of their own.

Letters: N images, C channels, R regions.
"""

import torch
from torch import Tensor

from .roi_samples import Bins, Samples, as_output, floats, mean_terms, owner, sample_points
from .sampling import as_table, sum_bags


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill ``output`` (R, C, height, width).

    Args:
        input: (N, C, H, W).
        rois: (R, 5), image index and x1 y1 x2 y2; times ``spatial_scale`` in pixels of the map.
        offset: (R, 2, height, width), x and y in units of ``gamma`` times the region's size; or empty for none.
        sampling_ratio: samples along each side of a bin; 0: so many that they are at most one pixel apart.
    """
    bins = Bins(pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned=True)
    if rois.size(0):
        output.copy_(as_output(_pool(input, rois, offset, bins, gamma), output))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Fill the gradients of input and offsets by autograd over a second forward pass."""
    if rois.size(0) == 0:
        return
    bins = Bins(pooled_height, pooled_width, spatial_scale, sampling_ratio, aligned=True)
    with torch.enable_grad():
        maps, moves = (tensor.detach().requires_grad_() for tensor in (input, offset))
        pooled = as_output(_pool(maps, rois, moves, bins, gamma), grad_output)
        gradients = torch.autograd.grad(pooled, (maps, moves), grad_output.to(pooled), allow_unused=True)
    for target, gradient in zip((grad_input, grad_offset), gradients, strict=True):
        if gradient is not None:
            target.copy_(gradient)


def _pool(input: Tensor, rois: Tensor, offset: Tensor, bins: Bins, gamma: float) -> Tensor:
    """(R * height * width, C)."""
    samples = sample_points(rois, bins)
    if offset.numel():
        size = (floats(rois)[:, 3:5] - floats(rois)[:, 1:3]) * bins.spatial_scale
        # (R, 2, height, width) -> (R * height * width, 2)
        moves = gamma * (floats(offset) * size[:, :, None, None]).permute(0, 2, 3, 1).reshape(-1, 2)
        x, y = moves[owner(samples.per_bin)].unbind(1)
        samples = Samples(samples.image, samples.y + y, samples.x + x, samples.per_bin)
    pixel, weight, per_bin = mean_terms(samples, *input.shape[2:])
    return sum_bags(floats(as_table(input)), pixel, weight, per_bin)
