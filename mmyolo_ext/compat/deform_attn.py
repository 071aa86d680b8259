"""Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159).

mmcv has a form of its own in plain PyTorch for CPU tensors; these ops are what it calls on a GPU.

Letters: N images, Q queries, M heads, D channels of a head, L levels, K points of a level, S pixels of all levels.
"""

import torch
from torch import Tensor

from .sampling import four_pixels, sum_bags


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Attention-weighted sums of bilinear samples, (N, Q, M * D).

    Args:
        value: (N, S, M, D), the levels one after the other.
        value_spatial_shapes: (L, 2), rows and columns of each level.
        value_level_start_index: (L,), first pixel of each level.
        sampling_locations: (N, Q, M, L, K, 2), x and y, 0 to 1 from border to border of the level.
        attention_weights: (N, Q, M, L, K).
        im2col_step: how many images the compiled op takes at once; unused.
    """
    attended = _attend(value, value_spatial_shapes, value_level_start_index, sampling_locations, attention_weights)
    return attended.to(value)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Fill the gradients of value, locations and weights by autograd over a second forward pass."""
    with torch.enable_grad():
        leaves = [tensor.detach().requires_grad_() for tensor in (value, sampling_locations, attention_weights)]
        attended = _attend(leaves[0], value_spatial_shapes, value_level_start_index, *leaves[1:])
        gradients = torch.autograd.grad(attended, leaves, grad_output.to(attended))
    for target, gradient in zip((grad_value, grad_sampling_loc, grad_attn_weight), gradients, strict=True):
        target.copy_(gradient)


def _attend(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
    count, pixels, heads, width = value.shape
    queries = locations.size(1)
    # Half precision moves points by pixels.
    locations = locations.to(torch.promote_types(locations.dtype, torch.float32))
    rows, columns = shapes.to(locations.device).unbind(1)
    # (L,) -> (L, 1), against (N, Q, M, L, K)
    rows, columns = rows[:, None], columns[:, None]
    pixel, share = four_pixels(locations[..., 1] * rows - 0.5, locations[..., 0] * columns - 0.5, rows, columns)
    pixel = pixel + starts.to(pixel.device)[:, None, None]
    # Rows of the table of all (image, pixel, head): ((n * S) + pixel) * M + m
    image = torch.arange(count, device=pixel.device).view(-1, 1, 1, 1, 1, 1)
    head = torch.arange(heads, device=pixel.device).view(1, 1, -1, 1, 1, 1)
    pixel = (image * pixels + pixel) * heads + head
    share = share * attention[..., None]
    table = value.reshape(-1, width).to(share)
    summed = sum_bags(table, pixel.view(count * queries * heads, -1), share.reshape(count * queries * heads, -1))
    return summed.view(count, queries, heads * width)
