"""RoIAlign (Mask R-CNN, arXiv 1703.06870): each bin of a region is the mean, or the maximum, of bilinear samples.

The mean is linear in the feature map: sampling positions depend on the regions alone, so that one table of (bin,
pixel, weight) gives the forward pass, and read the other way round, its gradient.

Letters: N images, C channels, R regions.
"""

import torch
from torch import Tensor

from .roi_samples import Bins, Samples, as_output, floats, mean_terms, owner, sample_points, terms
from .sampling import as_table, sum_bags
from .torchvision_ops import torchvision_ops

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
