"""RoIAlign (Mask R-CNN, arXiv 1703.06870) and deformable RoI pooling (Dai et al., arXiv 1703.06211).

Each bin of a region is the mean of bilinear samples, which is linear in the feature map: one table of (bin, pixel,
weight) gives the forward pass, and read the other way round, its gradient. In deformable pooling every bin moves by
an offset of its own.

Letters: N images, C channels, R regions, S samples of all regions, B = R * rows * columns bins.
"""

import torch
from torch import Tensor

from mmyolo_ext.ops import MissingOpError
from mmyolo_ext.ops.sampling import as_table, fill_gradients, four_pixels, sum_bags, torchvision_ops

MAX, MEAN = 0, 1  # values of mmcv's ``pool_mode``


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Fill ``output`` (R, C, height, width).

    Args:
        input: (N, C, H, W).
        rois: (R, 5), image index and x1 y1 x2 y2; times ``spatial_scale`` in pixels of the map. A negative width or
            height gives bins without samples (mmcv's CPU op stops there, its GPU op does not).
        argmax_y, argmax_x: Buffers of the compiled op, unused, here and below.
        sampling_ratio: Samples along each side of a bin; 0: enough that they are at most one pixel apart.
        pool_mode: :data:`MEAN`.
        aligned: Whether pixel centres lie at half a pixel; otherwise samples are off by half a pixel, and a region has
            at least the size of a pixel, as in the first version of the op.

    Raises:
        MissingOpError: If ``pool_mode`` is :data:`MAX`, which no detector of mmdet uses.
    """
    if pool_mode == MAX:
        raise MissingOpError("roi_align with pool_mode='max'")
    if rois.size(0) == 0:
        return
    if torchvision_ops(input.device) is not None:
        op = torchvision_ops(input.device).roi_align
        size = (aligned_height, aligned_width)
        output.copy_(op(input, rois.to(input), size, spatial_scale, sampling_ratio, aligned))
        return
    image, y, x, per_bin = _sample_points(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    pixel, weight = _terms(image, y, x, per_bin, *input.shape[2:])
    output.copy_(_as_output(sum_bags(_floats(as_table(input)), pixel, weight, per_bin * 4), output))


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to ``grad_input`` (N, C, H, W) the gradient of the forward pass; arguments as there."""
    if rois.size(0) == 0:
        return
    count, channels, height, width = grad_input.shape
    image, y, x, per_bin = _sample_points(rois, aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    pixel, weight = _terms(image, y, x, per_bin, height, width)
    bin_of_term = _owner(per_bin * 4)
    # the transposed table: terms sorted by pixel, a bag for each pixel, summing over the bins it contributed to
    pixel, order = pixel.sort()
    per_pixel = torch.bincount(pixel, minlength=count * height * width)
    gradient = sum_bags(_floats(as_table(grad_output)), bin_of_term[order], weight[order], per_pixel)
    # (N*H*W, C) -> (N, C, H, W)
    grad_input += gradient.view(count, height, width, channels).permute(0, 3, 1, 2)


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
        rois: As in :func:`roi_align_forward`.
        offset: (R, 2, height, width), x and y in units of ``gamma`` times the region's size; or empty for none.
        sampling_ratio: As in :func:`roi_align_forward`.
    """
    if rois.size(0):
        geometry = (pooled_height, pooled_width, spatial_scale, sampling_ratio)
        output.copy_(_as_output(_deform_pool(input, rois, offset, geometry, gamma), output))


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
    """Fill the gradients of input and offsets."""
    if rois.size(0) == 0:
        return
    geometry = (pooled_height, pooled_width, spatial_scale, sampling_ratio)
    fill_gradients(
        lambda maps, moves: _as_output(_deform_pool(maps, rois, moves, geometry, gamma), grad_output),
        (input, offset),
        grad_output,
        (grad_input, grad_offset),
    )


def _deform_pool(input: Tensor, rois: Tensor, offset: Tensor, geometry: tuple, gamma: float) -> Tensor:
    """Return the pooled regions, (R * height * width, C)."""
    image, y, x, per_bin = _sample_points(rois, *geometry, aligned=True)
    if offset.numel():
        size = (_floats(rois)[:, 3:5] - _floats(rois)[:, 1:3]) * geometry[2]
        # (R, 2, height, width) -> (R * height * width, 2)
        moves = gamma * (_floats(offset) * size[:, :, None, None]).permute(0, 2, 3, 1).reshape(-1, 2)
        move_x, move_y = moves[_owner(per_bin)].unbind(1)
        y, x = y + move_y, x + move_x
    pixel, weight = _terms(image, y, x, per_bin, *input.shape[2:])
    return sum_bags(_floats(as_table(input)), pixel, weight, per_bin * 4)


def _sample_points(
    rois: Tensor, height: int, width: int, spatial_scale: float, sampling_ratio: int, aligned: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the sampling points of (R, 5) regions in the order region, bin row and column, sample row and column.

    Returns:
        Index of the image, y and x in pixels of the map, each (S,), and the number of samples of each bin, (B,).
    """
    rois = _floats(rois)
    start = rois[:, 1:3] * spatial_scale - 0.5 * aligned
    size = rois[:, 3:5] * spatial_scale - 0.5 * aligned - start
    if not aligned:
        size = size.clamp(min=1)
    bin_size = size / rois.new_tensor([width, height])
    grid = bin_size.ceil() if sampling_ratio <= 0 else torch.full_like(bin_size, sampling_ratio)
    grid = grid.clamp(min=0)
    per_bin = grid.prod(1).long().repeat_interleave(height * width)
    # index of each sample in its bin, and of its bin among all
    bin_index = _owner(per_bin)
    number = torch.arange(len(bin_index), device=rois.device) - (per_bin.cumsum(0) - per_bin)[bin_index]
    region = bin_index // (height * width)
    columns = grid[region, 0].long()
    steps = torch.stack([number % columns, number // columns], 1) + 0.5
    bin_xy = torch.stack([bin_index % width, bin_index // width % height], 1)
    xy = start[region] + bin_xy * bin_size[region] + steps * bin_size[region] / grid[region]
    return rois[region, 0].long(), xy[:, 1], xy[:, 0], per_bin


def _terms(image: Tensor, y: Tensor, x: Tensor, per_bin: Tensor, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Return the row in the table of all maps and the weight of every term of the means, four per sample: (4 * S,)."""
    # up to one pixel outside, the map continues its border
    near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    pixel, weight = four_pixels(y.clamp(0, height - 1), x.clamp(0, width - 1), height, width)
    pixel, weight = pixel + (image * height * width)[:, None], weight * near[:, None]
    share = (1 / per_bin.to(weight.dtype)).repeat_interleave(per_bin)
    return pixel.flatten(), (weight * share[:, None]).flatten()


def _owner(sizes: Tensor) -> Tensor:
    """Return 0 sizes[0] times, 1 sizes[1] times, ..."""
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


def _floats(tensor: Tensor) -> Tensor:
    """Convert to float32, unless it is float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def _as_output(pooled: Tensor, output: Tensor) -> Tensor:
    """(R * height * width, C) -> (R, C, height, width)."""
    regions, channels, height, width = output.shape
    return pooled.view(regions, height, width, channels).permute(0, 3, 1, 2)
