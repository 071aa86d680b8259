"""RoIPool (Fast R-CNN, arXiv 1504.08083): each bin of a region is the maximum of the pixels it touches.

Letters: N images, C channels, R regions.
"""

import torch
from torch import Tensor


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Fill ``output`` (R, C, height, width) and ``argmax``, the pixel's index y * W + x, -1 where a bin is empty.

    Args:
        input: (N, C, H, W).
        rois: (R, 5), image index and x1 y1 x2 y2, the last pixel included; times ``spatial_scale`` in pixels of the
            map. A region without area keeps output 0.
    """
    height, width = input.shape[2:]
    bins = rois.new_tensor([pooled_width, pooled_height])
    start = rois[:, 1:3] * spatial_scale
    size = (rois[:, 3:5] + 1) * spatial_scale - start
    limit = rois.new_tensor([width, height])
    for roi, (image, origin, extent) in enumerate(zip(rois[:, 0].long().tolist(), start, size / bins, strict=True)):
        if (size[roi] <= 0).any():
            argmax[roi] = -1
            continue
        columns = _edges(origin[0], extent[0], pooled_width, limit[0])
        for row, (top, bottom) in enumerate(_edges(origin[1], extent[1], pooled_height, limit[1])):
            for column, (left, right) in enumerate(columns):
                window = input[image, :, top:bottom, left:right]
                if window.numel() == 0:
                    argmax[roi, :, row, column] = -1
                    continue
                largest, which = window.flatten(1).max(1)
                inner = max(right - left, 1)
                output[roi, :, row, column] = largest
                argmax[roi, :, row, column] = ((top + which // inner) * width + left + which % inner).to(argmax)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add each bin's gradient to the pixel of ``grad_input`` (N, C, H, W) that was its maximum."""
    count, channels, height, width = grad_input.shape
    single_map = rois[:, 0].long()[:, None] * channels + torch.arange(channels, device=rois.device)
    pixel = single_map[..., None, None] * (height * width) + argmax
    filled = argmax >= 0
    grad_input.view(-1).index_add_(0, pixel[filled], grad_output[filled].to(grad_input))


def _edges(origin: Tensor, size: Tensor, count: int, limit: Tensor) -> list[tuple[int, int]]:
    """First and one-past-last pixel of each bin along one axis."""
    steps = torch.arange(count + 1, device=origin.device)
    positions = (steps * size + origin).clamp(min=0).minimum(limit)
    return list(zip(positions[:-1].floor().int().tolist(), positions[1:].ceil().int().tolist(), strict=True))
