"""Darknet's ``.weights`` files: a header, then the numbers of every layer in the order of the ``.cfg`` file.

Header: major, minor and revision of the format, 32-bit integers; then how many pictures the network has seen, 64 bits
from version 0.2 on, 32 before. A convolution under a batch norm holds the norm's bias, weight, running mean and
running variance, then the kernel (filters, channels, rows, columns), or, of a mixed convolution, its kernels in the
order of their sizes; without a norm its bias, then the same; a weighted shortcut its weights. All are 32-bit floats;
all is little-endian.
"""

import re
import struct
from collections.abc import Iterator, Sequence
from logging import WARNING
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmyolo_ext.models.darknet.blocks import ConvLayer, MixedConv, ShortcutLayer
from mmyolo_ext.models.darknet.graph import Graph, Layer
from mmyolo_ext.models.darknet.options import shares

VERSION = (0, 2, 5)
# beyond it the file is something else
MAX_VERSION = 1000
PART_OF_A_FILE = re.compile(r'\.conv\.(\d+)$')


class Block(NamedTuple):
    """The numbers of one layer, in the file's order; ``tensors`` are where they belong, None if nowhere."""

    layer: Layer
    shapes: list[tuple[int, ...]]
    tensors: list[Tensor] | None

    def count(self) -> int:
        """How many numbers the file holds for the layer."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


def read_weights(
    path: str | Path, graph: Graph, network: nn.Module, predictions: Sequence[nn.Conv2d], num_layers: int | None = None
) -> int:
    """Fill a detector from a file. Nothing is changed unless the whole file fits.

    A predicting convolution that is not that of the ``.cfg`` file, because the head was given other classes, keeps its
    start; the log says so.

    Args:
        path: the file.
        graph: of the ``.cfg`` file it was made with.
        network: a ``DarknetNetwork`` of that graph.
        predictions: the head's convolutions, one for each [yolo] section.
        num_layers: the file holds the first so many layers alone; by default what ``.conv.<number>`` at the end of its
            name says, as with weights cut off for fine-tuning, else all.

    Returns:
        How many pictures the network had seen.

    Raises:
        ValueError: not such a file, or it ends too early or too late for the layers; the message names the layer.
    """
    path = Path(path)
    seen, numbers = _read(path)
    part = PART_OF_A_FILE.search(path.name)
    if num_layers is None and part:
        num_layers = int(part[1])
    blocks = [b for b in _blocks(graph, network, predictions) if num_layers is None or b.layer.index < num_layers]
    _check_length(path, blocks, len(numbers))
    start = 0
    for block in blocks:
        if block.tensors is None:
            print_log(
                f'{path.name}: {block.layer} is not in this detector as the file has it; left out', 'current', WARNING
            )
        for number, shape in enumerate(block.shapes):
            end = start + int(np.prod(shape))
            if block.tensors is not None:
                block.tensors[number].data.copy_(torch.from_numpy(numbers[start:end].copy()).view(shape))
            start = end
    return seen


def write_weights(
    path: str | Path, graph: Graph, network: nn.Module, predictions: Sequence[nn.Conv2d], seen: int = 0
) -> None:
    """Write a detector as a file that Darknet, and :func:`read_weights`, read.

    Args:
        path: of the file.
        graph: see :func:`read_weights`; likewise the next two.
        network: see there.
        predictions: see there.
        seen: how many pictures the network has seen.

    Raises:
        ValueError: the head has other classes than the ``.cfg`` file.
    """
    blocks = list(_blocks(graph, network, predictions))
    for block in blocks:
        if block.tensors is None:
            raise ValueError(
                f'{block.layer} of {block.layer.section.path} is not in this detector as the file has it: write the '
                "head's classes and filters into the .cfg file, and build the detector from that"
            )
    with open(path, 'wb') as file:
        file.write(struct.pack('<3iQ', *VERSION, seen))
        for block in blocks:
            for tensor in block.tensors:
                file.write(tensor.detach().cpu().numpy().astype('<f4').tobytes())


def _read(path: Path) -> tuple[int, np.ndarray]:
    content = path.read_bytes()
    if len(content) >= 16:
        major, minor, _ = struct.unpack_from('<3i', content)
        if 0 <= major < MAX_VERSION and 0 <= minor < MAX_VERSION:
            kind = '<Q' if (major, minor) >= (0, 2) else '<I'
            start = 12 + struct.calcsize(kind)
            if len(content) >= start and (len(content) - start) % 4 == 0:
                return struct.unpack_from(kind, content, 12)[0], np.frombuffer(content, '<f4', offset=start)
    raise ValueError(
        f'{path} is not a Darknet .weights file, or it is damaged: its {len(content)} bytes are not a header of 16 or '
        '20 and 32-bit numbers after it'
    )


def _check_length(path: Path, blocks: Sequence[Block], given: int) -> None:
    end = 0
    for block in blocks:
        if end + block.count() > given:
            raise ValueError(
                f'{path} ends within {block.layer} of {block.layer.section.path}: of its {block.count()} numbers only '
                f'{given - end} are there. The file is truncated, or belongs to another .cfg file'
            )
        end += block.count()
    if end < given:
        raise ValueError(
            f'{path} goes on after {blocks[-1].layer if blocks else "no layer"}, the last to be read: {given - end} '
            'numbers are left over. It belongs to another .cfg file'
        )


def _blocks(graph: Graph, network: nn.Module, predictions: Sequence[nn.Conv2d]) -> Iterator[Block]:
    """All layers that have numbers."""
    modules = dict(network.layers.items())
    of_head = {level.prediction.index: conv for level, conv in zip(graph.levels, predictions, strict=True)}
    for layer in graph.layers:
        shapes = _shapes(layer)
        if not shapes:
            continue
        if layer.index in of_head:
            conv = of_head[layer.index]
            tensors = [conv.bias, conv.weight]
        else:
            tensors = _tensors(modules.get(str(layer.index)))
        fits = [tuple(tensor.shape) for tensor in tensors] == shapes
        yield Block(layer, shapes, tensors if fits else None)


def _shapes(layer: Layer) -> list[tuple[int, ...]]:
    options = layer.options
    if layer.section.kind == 'convolutional':
        widths = shares(options.filters, len(options.sizes))
        kernels = [
            (width, options.in_channels // options.groups, size, size)
            for width, size in zip(widths, options.sizes, strict=True)
        ]
        return [(options.filters,)] * (4 if options.batch_normalize else 1) + kernels
    if layer.section.kind == 'shortcut' and options.weights_type != 'none':
        return [(options.num_inputs, options.channels if options.weights_type == 'per_channel' else 1)]
    return []


def _tensors(module: nn.Module | None) -> list[Tensor]:
    if isinstance(module, ShortcutLayer):
        return [module.weights]
    if not isinstance(module, ConvLayer):
        return []
    norm, conv = module.bn, module.conv
    kernels = [part.weight for part in conv.convs] if isinstance(conv, MixedConv) else [conv.weight]
    if norm is None:
        return [conv.bias, *kernels]
    statistics = [getattr(norm, 'running_mean', None), getattr(norm, 'running_var', None)]
    if None in [norm.weight, norm.bias, *statistics]:
        return []
    return [norm.bias, norm.weight, *statistics, *kernels]
