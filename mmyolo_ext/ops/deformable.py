"""Deformable convolution and attention.

Deformable convolution, v1 (Dai et al., arXiv 1703.06211) and v2, with a mask (Zhu et al., arXiv 1811.11168), samples
the map at an offset of every tap, between pixels. Multi-scale deformable attention (Deformable DETR, arXiv 2010.04159)
is the op that mmcv calls on a GPU; on a CPU mmcv uses plain PyTorch itself. Gradients come from autograd over a second
forward pass, because mmcv passes the inputs, not the graph.

Letters: N images, C input channels, O output channels, G offset groups, K taps of the kernel, L output cells.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from mmyolo_ext.ops.sampling import as_table, fill_gradients, four_pixels, sum_bags, torchvision_ops


class Geometry(NamedTuple):
    """Geometry of a convolution; pairs are (rows, columns)."""

    stride: tuple[int, int]
    padding: tuple[int, int]
    dilation: tuple[int, int]
    groups: int
    offset_groups: int


def _geometry(options: dict) -> Geometry:
    """Read the arguments of either op: dH, padH, dilationH, ... of v1; stride_h, pad_h, dilation_h, ... of v2."""
    names = [('dH', 'dW'), ('padH', 'padW'), ('dilationH', 'dilationW')]
    if 'stride_h' in options:
        names = [(f'{name}_h', f'{name}_w') for name in ('stride', 'pad', 'dilation')]
    pairs = [(options[rows], options[columns]) for rows, columns in names]
    return Geometry(*pairs, options['group'], options['deformable_group'])


def deform_conv_forward(
    input: Tensor, weight: Tensor, offset: Tensor, output: Tensor, columns: Tensor, ones: Tensor, **options: int
) -> None:
    """Fill ``output`` (N, O, rows, columns).

    Args:
        input: (N, C, H, W).
        weight: (O, C / groups, kernel rows, kernel columns).
        offset: (N, G * K * 2, rows, columns), the last two being y and x, in pixels.
        columns, ones: buffers of the compiled op, unused, here and below.
        options: kW, kH, dW, dH (stride), padW, padH, dilationW, dilationH, group, deformable_group, im2col_step.
    """
    output.copy_(_convolve(input, offset, None, weight, _geometry(options)))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    weight: Tensor,
    columns: Tensor,
    **options: int,
) -> None:
    """Fill the gradients of the input and the offsets."""

    def convolve(maps: Tensor, moves: Tensor) -> Tensor:
        return _convolve(maps, moves, None, weight, _geometry(options))

    fill_gradients(convolve, (input, offset), grad_output, (grad_input, grad_offset))


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    grad_output: Tensor,
    grad_weight: Tensor,
    columns: Tensor,
    ones: Tensor,
    scale: float,
    **options: int,
) -> None:
    """Fill the gradient of the weight, times ``scale``."""
    # Linear in the weight: the gradient is the same at any weight.
    weight = torch.zeros_like(grad_weight)

    def convolve(weight: Tensor) -> Tensor:
        return _convolve(input, offset, None, weight, _geometry(options)) * scale

    fill_gradients(convolve, (weight,), grad_output, (grad_weight,))


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    with_bias: bool,
    **options: int,
) -> None:
    """Fill ``output`` (N, O, rows, columns); as v1, and ``mask`` (N, G * K, rows, columns) weighs the taps.

    Args:
        bias: (O,), counted if ``with_bias``.
        options: kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group,
            deformable_group.
    """
    output.copy_(_convolve(input, offset, mask, weight, _geometry(options)))
    if with_bias:
        output += bias[:, None, None]


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    with_bias: bool,
    **options: int,
) -> None:
    """Fill the gradients of all inputs."""
    targets = (grad_input, grad_offset, grad_mask, grad_weight)

    def convolve(*inputs: Tensor) -> Tensor:
        return _convolve(*inputs, _geometry(options))

    fill_gradients(convolve, (input, offset, mask, weight), grad_output, targets)
    if with_bias:
        grad_bias.copy_(grad_output.sum((0, 2, 3)))


def _convolve(input: Tensor, offset: Tensor, mask: Tensor | None, weight: Tensor, geometry: Geometry) -> Tensor:
    axes = zip(input.shape[2:], weight.shape[2:], geometry.stride, geometry.padding, geometry.dilation, strict=True)
    size = tuple((side + 2 * pad - gap * (taps - 1) - 1) // stride + 1 for side, taps, stride, pad, gap in axes)
    taps = geometry.offset_groups * weight[0, 0].numel()
    offset = _leading(offset, (2 * taps, *size))
    mask = None if mask is None else _leading(mask, (taps, *size))
    offset = _off_the_border(offset, weight.shape[2:], geometry)
    if torchvision_ops(input.device) is not None:
        return torchvision_ops(input.device).deform_conv2d(
            input, offset, weight, None, geometry.stride, geometry.padding, geometry.dilation, mask
        )
    read = _read_taps(input, offset, mask, weight.shape[2:], geometry)
    # (N, C, K, L) -> (N, groups, C / groups * K, L)
    read = read.reshape(len(input), geometry.groups, -1, size[0] * size[1])
    output = weight.to(read).view(geometry.groups, weight.size(0) // geometry.groups, -1) @ read
    return output.view(len(input), -1, *size).to(input)


def _leading(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Return the first values of every image as (N, *shape), as mmcv's op reads offsets of a larger map (DyHead)."""
    count = shape[0] * shape[1] * shape[2]
    return tensor if tensor.shape[1:] == shape else tensor.flatten(1)[:, :count].view(-1, *shape)


def _off_the_border(offset: Tensor, kernel_size: torch.Size, geometry: Geometry) -> Tensor:
    """Move taps that read at row or column -1 to -2: both read 0 there, and at -2 the gradient of the offset is 0 too.

    mmcv's compiled op counts a point at exactly -1 as outside of the map. The slope that autograd (and torchvision)
    takes there is that of the points to its right.
    """
    # Half precision would move points by pixels.
    still = _undeformed(kernel_size, offset.shape[2:], geometry).to(torch.promote_types(offset.dtype, torch.float32))
    taps = offset.reshape(len(offset), geometry.offset_groups, kernel_size.numel(), 2, *offset.shape[2:])
    on_border = (taps + still == -1).any(3, keepdim=True)
    return torch.where(on_border, (-2 - still).to(taps), taps).reshape(offset.shape)


def _read_taps(
    input: Tensor, offset: Tensor, mask: Tensor | None, kernel_size: torch.Size, geometry: Geometry
) -> Tensor:
    """Return the value that every tap reads for every output cell, (N, C, K, L)."""
    count, channels, height, width = input.shape
    groups, taps, (rows, columns) = geometry.offset_groups, kernel_size.numel(), offset.shape[2:]
    offset = offset.to(torch.promote_types(offset.dtype, torch.float32))
    offset = offset.reshape(count, groups, taps, 2, rows, columns)
    points = offset + _undeformed(kernel_size, (rows, columns), geometry).to(offset)
    pixel, share = four_pixels(points[:, :, :, 0], points[:, :, :, 1], height, width)
    if mask is not None:
        share = share * mask.reshape(count, groups, taps, rows, columns, 1)
    # Every offset group of every image is a map of its own.
    first = torch.arange(count * groups, device=input.device).view(count, groups, 1, 1, 1, 1) * (height * width)
    table = as_table(input.reshape(count * groups, -1, height, width)).to(share)
    read = sum_bags(table, (pixel + first).view(-1, 4), share.reshape(-1, 4))
    # (N*G*K*L, C / G) -> (N, C, K, L)
    read = read.view(count, groups, taps, rows * columns, channels // groups)
    return read.permute(0, 1, 4, 2, 3).reshape(count, channels, taps, rows * columns)


def _undeformed(kernel_size: torch.Size, output_size: tuple[int, int], geometry: Geometry) -> Tensor:
    """Return where the taps of an ordinary convolution read, y and x in pixels: (K, 2, rows, columns)."""
    axes = [
        torch.arange(taps)[:, None] * dilation + torch.arange(cells) * stride - padding
        for taps, cells, stride, padding, dilation in zip(
            kernel_size, output_size, geometry.stride, geometry.padding, geometry.dilation, strict=True
        )
    ]
    y, x = torch.broadcast_tensors(axes[0][:, None, :, None], axes[1][None, :, None, :])
    return torch.stack([y, x], 2).flatten(0, 1)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """Return attention-weighted sums of bilinear samples, (N, Q, M * D).

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
    """Fill the gradients of value, locations and weights."""
    levels = value_spatial_shapes, value_level_start_index

    def attend(value: Tensor, *points: Tensor) -> Tensor:
        return _attend(value, *levels, *points)

    inputs, targets = (sampling_locations, attention_weights), (grad_sampling_loc, grad_attn_weight)
    fill_gradients(attend, (value, *inputs), grad_output, (grad_value, *targets))


def _attend(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
    count, pixels, heads, width = value.shape
    queries = locations.size(1)
    # Half precision moves points by pixels.
    locations = locations.to(torch.promote_types(locations.dtype, torch.float32))
    # (L, 2) -> two of (L, 1), against (N, Q, M, L, K)
    rows, columns = shapes.to(locations.device)[:, :, None].unbind(1)
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
