"""RoIAlign (Mask R-CNN, arXiv 1703.06870) and deformable RoI pooling (Dai et al., arXiv 1703.06211).

Each bin of a region is the mean of bilinear samples, which is linear in the feature map: one table of (bin, pixel,
weight) gives them all. In deformable pooling every bin moves by an offset of its own.

Letters: N images, C channels, R regions, S samples of all regions, B = R * rows * columns bins.
"""

import torch
from torch import Tensor

from mmyolo_ext.ops import MissingOpError
from mmyolo_ext.ops.sampling import as_table, fill_gradients, four_pixels, sum_bags, torchvision_ops

MAX, MEAN = 0, 1  # values of mmcv's ``pool_mode``


def roi_align_forward(
    input: Tensor, rois: Tensor, output: Tensor, argmax_y: Tensor, argmax_x: Tensor, **options: float
) -> None:
    """Fill ``output`` (R, C, height, width).

    Args:
        input: (N, C, H, W).
        rois: (R, 5), image index and x1 y1 x2 y2; times ``spatial_scale`` in pixels of the map. A negative width or
            height gives bins without samples (mmcv's CPU op stops there, its GPU op does not).
        argmax_y, argmax_x: Buffers of the compiled op, unused, here and below.
        options: aligned_height, aligned_width (bins), spatial_scale; sampling_ratio, the samples along each side of a
            bin, 0 for enough that they are at most one pixel apart; pool_mode, :data:`MEAN`; aligned, whether pixel
            centres lie at half a pixel: otherwise samples are off by half a pixel, and a region has at least the size
            of a pixel, as in the first version of the op.

    Raises:
        MissingOpError: If ``pool_mode`` is :data:`MAX`, which no detector of mmdet uses.
    """
    if options['pool_mode'] == MAX:
        raise MissingOpError("roi_align with pool_mode='max'")
    if len(rois):
        output.copy_(_align(input, rois, options))


def roi_align_backward(
    grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor, **options: float
) -> None:
    """Fill ``grad_input`` (N, C, H, W); linear in the map, the gradient is the same at any map."""
    if len(rois):
        maps = torch.zeros_like(grad_input)
        fill_gradients(lambda maps: _align(maps, rois, options), (maps,), grad_output, (grad_input,))


def _align(input: Tensor, rois: Tensor, options: dict) -> Tensor:
    size, aligned = (options['aligned_height'], options['aligned_width']), options['aligned']
    scale, ratio = options['spatial_scale'], options['sampling_ratio']
    if torchvision_ops(input.device) is not None:
        return torchvision_ops(input.device).roi_align(input, rois.to(input), size, scale, ratio, aligned)
    return _pool(input, *_sample_points(rois, *size, scale, ratio, aligned), size)


def deform_roi_pool_forward(input: Tensor, rois: Tensor, offset: Tensor, output: Tensor, **options: float) -> None:
    """Fill ``output`` (R, C, height, width).

    Args:
        input: (N, C, H, W).
        rois: As in :func:`roi_align_forward`.
        offset: (R, 2, height, width), x and y in units of ``gamma`` times the region's size; or empty for none.
        options: pooled_height, pooled_width, gamma; spatial_scale and sampling_ratio as in :func:`roi_align_forward`.
    """
    if len(rois):
        output.copy_(_deform_pool(input, rois, offset, options))


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    **options: float,
) -> None:
    """Fill the gradients of input and offsets."""
    if len(rois):

        def pool(maps: Tensor, moves: Tensor) -> Tensor:
            return _deform_pool(maps, rois, moves, options)

        fill_gradients(pool, (input, offset), grad_output, (grad_input, grad_offset))


def _deform_pool(input: Tensor, rois: Tensor, offset: Tensor, options: dict) -> Tensor:
    size, scale = (options['pooled_height'], options['pooled_width']), options['spatial_scale']
    image, y, x, per_bin = _sample_points(rois, *size, scale, options['sampling_ratio'], aligned=True)
    if offset.numel():
        sides = (_floats(rois)[:, 3:5] - _floats(rois)[:, 1:3]) * scale
        # (R, 2, height, width) -> (R * height * width, 2)
        moves = options['gamma'] * (_floats(offset) * sides[:, :, None, None]).permute(0, 2, 3, 1).reshape(-1, 2)
        move_x, move_y = moves[_owner(per_bin)].unbind(1)
        y, x = y + move_y, x + move_x
    return _pool(input, image, y, x, per_bin, size)


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


def _pool(input: Tensor, image: Tensor, y: Tensor, x: Tensor, per_bin: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the mean of the samples (S,) of every bin (B,): (R, C, height, width)."""
    height, width = input.shape[2:]
    # up to one pixel outside, the map continues its border
    near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    pixel, weight = four_pixels(y.clamp(0, height - 1), x.clamp(0, width - 1), height, width)
    pixel, weight = pixel + (image * height * width)[:, None], weight * near[:, None]
    share = (1 / per_bin.to(weight.dtype)).repeat_interleave(per_bin)
    weight = (weight * share[:, None]).flatten()
    pooled = sum_bags(_floats(as_table(input)), pixel.flatten(), weight, per_bin * 4)
    # (R * height * width, C) -> (R, C, height, width)
    return pooled.view(-1, *size, input.size(1)).permute(0, 3, 1, 2)


def _owner(sizes: Tensor) -> Tensor:
    """Return 0 sizes[0] times, 1 sizes[1] times, ..."""
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


def _floats(tensor: Tensor) -> Tensor:
    """Convert to float32, unless it is float64."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
