"""Bilinear sampling of feature maps as sums over bags of weighted pixels.

Every op that reads a feature map between its pixels (RoIAlign, deformable convolution, deformable attention) adds up,
for each output cell, some pixels times some weights. ``embedding_bag`` does that for all channels at once, for bags
of any size, without a tensor of the pixels picked, on the CPU and on GPUs, with gradients.

Letters: P pixels of all maps, C channels, T terms (pixel and weight), B bags.
"""

import functools
from collections.abc import Callable, Sequence
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor


def as_table(maps: Tensor) -> Tensor:
    """(N, C, H, W) -> (N*H*W, C), one row per pixel."""
    return maps.permute(0, 2, 3, 1).reshape(-1, maps.size(1))


def four_pixels(y: Tensor, x: Tensor, height: int | Tensor, width: int | Tensor) -> tuple[Tensor, Tensor]:
    """Return the pixels around points and their bilinear weights; weights outside the map are 0.

    Args:
        y, x: points in pixels of the map, (...); its first pixel's centre is 0.
        height, width: size of the map, or one size per point.

    Returns:
        Index y * width + x of each pixel, kept inside the map, and weight: (..., 4), upper left and right, then lower.
    """
    top, left = y.floor(), x.floor()
    down, right = y - top, x - left
    rows, columns = torch.stack([top, top, top + 1, top + 1], -1), torch.stack([left, left + 1, left, left + 1], -1)
    weight = torch.stack([(1 - down) * (1 - right), (1 - down) * right, down * (1 - right), down * right], -1)
    height, width = (torch.as_tensor(size, device=y.device)[..., None] for size in (height, width))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    # A point far outside, or NaN, has no pixel: index 0 with weight 0.
    rows, columns = (torch.where(inside, index, 0).long() for index in (rows, columns))
    return rows * width + columns, torch.where(inside, weight, 0)


def sum_bags(table: Tensor, pixel: Tensor, weight: Tensor, sizes: Tensor | None = None) -> Tensor:
    """Return the sum of weight * table[pixel] over each bag; differentiable in ``table`` and ``weight``.

    Args:
        table: (P, C).
        pixel, weight: (B, T) for bags of one size, or (T,) with ``sizes`` (B,) for bags one after the other.

    Returns:
        (B, C).
    """
    starts = None if sizes is None else sizes.cumsum(0) - sizes
    return F.embedding_bag(pixel, table, starts, mode='sum', per_sample_weights=weight)


@functools.cache
def torchvision_ops(device: torch.device) -> ModuleType | None:
    """Return ``torchvision.ops`` if it imports and computes on ``device``, else None.

    A torchvision built for another torch or CUDA version imports and fails on the first call.
    """
    try:
        import torchvision

        box = torch.tensor([[0.0, 0.0, 1.0, 1.0]], device=device)
        torchvision.ops.nms(box, box[:, 0], 0.5)
    except (ImportError, AttributeError, NotImplementedError, OSError, RuntimeError):
        return None
    return torchvision.ops


def fill_gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], grad_output: Tensor, targets: Sequence[Tensor]
) -> None:
    """Fill ``targets`` with the gradients of ``inputs`` by autograd over a second forward pass."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in inputs]
        output = function(*leaves)
        gradients = torch.autograd.grad(output, leaves, grad_output.to(output), allow_unused=True)
    for target, gradient in zip(targets, gradients, strict=True):
        if gradient is not None:
            target.copy_(gradient)
