"""RoIAlign (Mask R-CNN, arXiv 1703.06870): each bin of a region is the mean, or the maximum, of bilinear samples.

The mean is linear in the feature map: sampling positions depend on the regions alone, so that one table of (bin,
pixel, weight) gives the forward pass, and read the other way round, its gradient.

Letters: N images, C channels, R regions.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmyolo_ext.ops.sampling import as_table, four_pixels, sum_bags, torchvision_ops


class Samples(NamedTuple):
    """Sampling points of all regions, bin by bin."""

    image: Tensor
    """(S,) index of the feature map."""
    y: Tensor
    """(S,) in pixels of the map."""
    x: Tensor
    per_bin: Tensor
    """(B,) number of samples."""


class Bins(NamedTuple):
    """How the regions are divided."""

    height: int
    width: int
    spatial_scale: float
    sampling_ratio: int
    aligned: bool


def owner(sizes: Tensor) -> Tensor:
    """0 sizes[0] times, 1 sizes[1] times, ..."""
    return torch.arange(len(sizes), device=sizes.device).repeat_interleave(sizes)


def floats(tensor: Tensor) -> Tensor:
    """In float32, unless it is float64 already."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def sample_points(rois: Tensor, bins: Bins) -> Samples:
    """Sampling points of (R, 5) regions, in the order region, bin row, bin column, sample row, sample column."""
    rois = floats(rois)
    start = rois[:, 1:3] * bins.spatial_scale - 0.5 * bins.aligned
    size = rois[:, 3:5] * bins.spatial_scale - 0.5 * bins.aligned - start
    if not bins.aligned:
        size = size.clamp(min=1)
    bin_size = size / rois.new_tensor([bins.width, bins.height])
    grid = bin_size.ceil() if bins.sampling_ratio <= 0 else torch.full_like(bin_size, bins.sampling_ratio)
    grid = grid.clamp(min=0)
    per_roi = grid.prod(1).long()
    per_bin = per_roi.repeat_interleave(bins.height * bins.width)
    # Number of each sample in its bin, and of its bin among all.
    bin_index = owner(per_bin)
    number = torch.arange(len(bin_index), device=rois.device) - (per_bin.cumsum(0) - per_bin)[bin_index]
    region = bin_index // (bins.height * bins.width)
    columns = grid[region, 0].long()
    steps = torch.stack([number % columns, number // columns], 1) + 0.5
    bin_xy = torch.stack([bin_index % bins.width, bin_index // bins.width % bins.height], 1)
    xy = start[region] + bin_xy * bin_size[region] + steps * bin_size[region] / grid[region]
    return Samples(rois[region, 0].long(), xy[:, 1], xy[:, 0], per_bin)


def terms(samples: Samples, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Rows of the table of all maps and weights, (S, 4). Up to one pixel outside, the map continues its border."""
    y, x = samples.y, samples.x
    near = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    pixel, weight = four_pixels(y.clamp(0, height - 1), x.clamp(0, width - 1), height, width)
    return pixel + (samples.image * height * width)[:, None], weight * near[:, None]


def mean_terms(samples: Samples, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Pixel and weight of every term of every bin's mean, and the number of terms per bin."""
    pixel, weight = terms(samples, height, width)
    share = (1 / samples.per_bin.to(weight.dtype)).repeat_interleave(samples.per_bin)
    return pixel.flatten(), (weight * share[:, None]).flatten(), samples.per_bin * 4


def as_output(pooled: Tensor, output: Tensor) -> Tensor:
    """(R * height * width, C) -> (R, C, height, width)."""
    regions, channels, height, width = output.shape
    return pooled.view(regions, height, width, channels).permute(0, 3, 1, 2)


MAX, MEAN = 0, 1
NO_SAMPLE = -10000.0
"""What mmcv's op gives for the maximum of a bin without a sample, or with lower samples only; argmax is then -1."""


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
    """Fill ``output`` (R, C, height, width) and, for the maximum, the position of the largest sample.

    Args:
        input: (N, C, H, W).
        rois: (R, 5), image index and x1 y1 x2 y2; times ``spatial_scale`` in pixels of the map. A negative width or
            height gives bins without samples (mmcv's CPU op stops there, its GPU op does not).
        sampling_ratio: samples along each side of a bin; 0: so many that they are at most one pixel apart.
        pool_mode: :data:`MEAN` or :data:`MAX`.
        aligned: pixel centres at half a pixel, as they are; else the older form, off by half a pixel, in which a
            region has at least one pixel's size.
    """
    bins = Bins(aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    if rois.size(0) == 0:
        return
    if pool_mode == MAX:
        _max_forward(input, rois, bins, output, argmax_y, argmax_x)
    elif torchvision_ops(input.device) is not None:
        op = torchvision_ops(input.device).roi_align
        size = (aligned_height, aligned_width)
        output.copy_(op(input, rois.to(input), size, spatial_scale, sampling_ratio, aligned))
    else:
        pixel, weight, per_bin = mean_terms(sample_points(rois, bins), *input.shape[2:])
        pooled = sum_bags(floats(as_table(input)), pixel, weight, per_bin)
        output.copy_(as_output(pooled, output))


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
    if pool_mode == MAX:
        _max_backward(grad_output, rois, argmax_y, argmax_x, grad_input)
        return
    bins = Bins(aligned_height, aligned_width, spatial_scale, sampling_ratio, aligned)
    pixel, weight, per_bin = mean_terms(sample_points(rois, bins), *grad_input.shape[2:])
    bin_of_term = owner(per_bin)
    # The transposed table: terms sorted by pixel, a bag for each pixel, summing over the bins it served.
    pixel, order = pixel.sort()
    count, channels, height, width = grad_input.shape
    per_pixel = torch.bincount(pixel, minlength=count * height * width)
    gradient = sum_bags(floats(as_table(grad_output)), bin_of_term[order], weight[order], per_pixel)
    # (N*H*W, C) -> (N, C, H, W)
    grad_input += gradient.view(count, height, width, channels).permute(0, 3, 1, 2)


def _max_forward(maps: Tensor, rois: Tensor, bins: Bins, output: Tensor, argmax_y: Tensor, argmax_x: Tensor) -> None:
    """One region at a time, for all its bins have the same number of samples."""
    table, count = floats(as_table(maps)), bins.height * bins.width
    for roi, out, out_y, out_x in zip(rois.split(1), output, argmax_y, argmax_x, strict=True):
        samples = sample_points(roi, bins)
        per_bin = len(samples.y) // count
        values = sum_bags(table, *terms(samples, *maps.shape[2:])).view(count, per_bin, table.size(1))
        # (bins, 1 + samples, C) -> (bins, C)
        largest, which = _behind(NO_SAMPLE, values).max(1)
        out.copy_(largest.T.view_as(out))
        out_y.copy_(_behind(-1, samples.y.view(count, per_bin)).gather(1, which).T.view_as(out))
        out_x.copy_(_behind(-1, samples.x.view(count, per_bin)).gather(1, which).T.view_as(out))


def _behind(value: float, rows: Tensor) -> Tensor:
    """Put ``value`` before the first entry of dimension 1."""
    return torch.cat([rows.new_full((rows.size(0), 1, *rows.shape[2:]), value), rows], 1)


def _max_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor, argmax_x: Tensor, grad_input: Tensor) -> None:
    """Each bin's gradient goes to the four pixels around its largest sample; every (image, channel) is a map here."""
    channels, height, width = grad_input.shape[1:]
    image = rois[:, 0].long()[:, None, None, None]
    single_map = image * channels + torch.arange(channels, device=rois.device)[:, None, None]
    points = Samples(*(part.expand_as(argmax_y).flatten() for part in (single_map, argmax_y, argmax_x)), image)
    pixel, weight = terms(points, height, width)
    gradient = weight * grad_output.flatten()[:, None] * (points.y != -1)[:, None]
    grad_input.view(-1).index_add_(0, pixel.flatten(), gradient.flatten().to(grad_input))


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
