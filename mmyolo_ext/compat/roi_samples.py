"""Where pooling over regions reads a feature map: bins of each region, samples of each bin, pixels of each sample.

Letters: R regions, S samples of all regions, B = R * rows * columns bins.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .sampling import four_pixels


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
