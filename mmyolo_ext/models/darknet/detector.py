"""A detector described by a Darknet ``.cfg`` file, and Darknet's ``.weights`` files.

A ``.weights`` file is a header, then the float32 values of every layer in the order of the ``.cfg`` file, all
little-endian. Header: major, minor and revision of the format, int32; then the number of training images, 64 bits
from version 0.2 on, 32 before. A convolution with batch norm has the norm's bias, weight, running mean and running
variance, then its kernels (filters, channels, rows, columns) in the order of their sizes; without a norm it has its
bias, then the kernels; a weighted shortcut has its weights.
"""

import re
import struct
from logging import WARNING
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from mmyolo_ext.models.darknet.cfg import NORMALIZATIONS, Layer, read_graph
from mmyolo_ext.models.darknet.network import ConvLayer, DarknetNetwork, MixedConv, ShortcutLayer, shares
from mmyolo_ext.models.detectors.yolo_detector import YOLODetector
from mmyolo_ext.registry import MODELS

VERSION = (0, 2, 5)
MAX_VERSION = 1000  # beyond it the file is something else
PARTIAL_FILE = re.compile(r'\.conv\.(\d+)$')


@MODELS.register_module()
class DarknetCfg(YOLODetector):
    """The network of a ``.cfg`` file with :class:`YOLOv3Head`.

    The file defines layers, anchors, classes and the size of the input. Training is defined by the config of the run,
    and the training fields of the file are ignored. Levels are in the order of the [yolo] sections.

    The 1x1 convolution before each [yolo] belongs to the head, so that its biases start at the rate of objects, and
    ``bbox_head=dict(num_classes=...)`` trains the network on another data set without a change of the file.

    Args:
        cfg_file: Path of the ``.cfg`` file.
        bbox_head: Entries that override those of the file, or another head of this package by its ``type``.
        weights: A ``.weights`` file to start from, or the first part of one (``.conv.<number of layers>``).
        weights_normalization: Of each weighted [shortcut] without this field: ``'sigmoid'``, ``'sigmoid_mean'`` (the
            YOLOv3 code of 2020), ``'relu'``, ``'softmax'`` or ``'none'`` (Darknet); see :class:`ShortcutLayer`.
        norm_cfg: Normalization layers; Darknet's batch norm by default.
        norm_eval: Keep them in eval mode.
        data_preprocessor: By default RGB from 0 to 1, padded with grey to a multiple of the largest stride.
        **kwargs: Other arguments of :class:`YOLODetector`.

    Raises:
        ValueError: If the file has an error; the message has its line.
        FileNotFoundError: If there is no such file.
    """

    def __init__(
        self,
        cfg_file: str | Path,
        bbox_head: dict | None = None,
        weights: str | Path | None = None,
        weights_normalization: str = 'sigmoid',
        norm_cfg: dict | None = None,
        norm_eval: bool = False,
        data_preprocessor: dict | None = None,
        **kwargs: Any,
    ) -> None:
        if weights_normalization not in NORMALIZATIONS:
            raise ValueError(f'weights_normalization must be one of {NORMALIZATIONS}, got {weights_normalization!r}')
        graph = read_graph(cfg_file, weights_normalization)
        channels, height, width = graph.image
        strides = [level.stride for level in graph.levels]
        head = {
            'type': 'mmyolo_ext.YOLOv3Head',
            'num_classes': graph.levels[0].yolo.options['classes'],
            'in_channels': 'auto',
            'input_size': (height, width),
            'prior_generator': {
                'type': 'mmdet.YOLOAnchorGenerator',
                'base_sizes': [level.yolo.options['anchors_wh'] for level in graph.levels],
                'strides': strides,
            },
        }
        preprocessor = {
            'type': 'mmyolo_ext.DataPreprocessor',
            'mean': [0] * channels,
            'std': [255] * channels,
            'bgr_to_rgb': channels == 3,
            'pad_size_divisor': max(strides),
            'pad_value': 114 / 255,
        }
        super().__init__(
            backbone={'type': DarknetNetwork, 'graph': graph, 'norm_cfg': norm_cfg, 'norm_eval': norm_eval},
            bbox_head={**head, **(bbox_head or {})},
            data_preprocessor=data_preprocessor or preprocessor,
            **kwargs,
        )
        self.graph = graph
        self.weights = weights

    def init_weights(self) -> None:
        """Initialize all weights, then load the ``.weights`` file, if there is one."""
        first_time = not self.is_init
        super().init_weights()
        if self.weights is not None and first_time:
            self.load_weights(self.weights)

    def load_weights(self, path: str | Path) -> int:
        """Load a ``.weights`` file. Nothing is changed unless the whole file fits.

        A predicting convolution with other classes than the ``.cfg`` file keeps its weights, with a warning.

        Args:
            path: Of the file. One whose name ends in ``.conv.<number>`` has the first so many layers only.

        Returns:
            Number of images the network was trained on.

        Raises:
            ValueError: If it is no such file, or does not have as many values as the layers.
        """
        path = Path(path)
        seen, values = _read(path)
        partial = PARTIAL_FILE.search(path.name)
        num_layers = int(partial[1]) if partial else len(self.graph.layers)
        blocks = [block for block in self._blocks() if block.layer.index < num_layers]
        count = sum(int(np.prod(shape)) for block in blocks for shape in block.shapes)
        if count != len(values):
            raise ValueError(
                f'{path} has {len(values)} values, the first {num_layers} layers of '
                f'{self.graph.layers[0].section.path} {count}: the file is truncated, or belongs to another .cfg file'
            )
        start = 0
        for block in blocks:
            if block.tensors is None:
                print_log(f'{path.name}: {block.layer} differs in this detector; not loaded', 'current', WARNING)
            for number, shape in enumerate(block.shapes):
                end = start + int(np.prod(shape))
                if block.tensors is not None:
                    block.tensors[number].data.copy_(torch.from_numpy(values[start:end].copy()).view(shape))
                start = end
        return seen

    def save_weights(self, path: str | Path, seen: int = 0) -> None:
        """Write a ``.weights`` file.

        Args:
            path: Of the file.
            seen: Number of images the network was trained on.

        Raises:
            ValueError: If the detector has other classes or norms than the ``.cfg`` file.
        """
        blocks = self._blocks()
        for block in blocks:
            if block.tensors is None:
                raise ValueError(
                    f'{block.layer} of {block.layer.section.path} differs in this detector: write classes and filters '
                    'of the head into the .cfg file, and build the detector from that'
                )
        with open(path, 'wb') as file:
            file.write(struct.pack('<3iQ', *VERSION, seen))
            for block in blocks:
                for tensor in block.tensors:
                    file.write(tensor.detach().cpu().numpy().astype('<f4').tobytes())

    def _blocks(self) -> list['Block']:
        """Return all layers that have values in a ``.weights`` file."""
        predictions = zip(self.graph.levels, self.bbox_head.convs_pred, strict=True)
        of_head = {level.prediction.index: conv for level, conv in predictions}
        blocks = []
        for layer in self.graph.layers:
            if shapes := _shapes(layer):
                conv = of_head.get(layer.index)
                own = dict(self.backbone.layers.items()).get(str(layer.index))
                tensors = _tensors(own) if conv is None else [conv.bias, conv.weight]
                fits = [tuple(tensor.shape) for tensor in tensors] == shapes
                blocks.append(Block(layer, shapes, tensors if fits else None))
        return blocks


class Block(NamedTuple):
    """The values of one layer in file order; ``tensors`` are their destinations, None if the detector differs."""

    layer: Layer
    shapes: list[tuple[int, ...]]
    tensors: list[Tensor] | None


def _read(path: Path) -> tuple[int, np.ndarray]:
    """Return the number of training images and all values of a file."""
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
        '20 bytes followed by 32-bit values'
    )


def _shapes(layer: Layer) -> list[tuple[int, ...]]:
    """Return the shapes of a layer's values in file order."""
    options = layer.options
    if layer.section.kind == 'convolutional':
        filters, sizes = options['filters'], options['sizes']
        seen = options['in_channels'] // options['groups']
        kernels = [(width, seen, s, s) for width, s in zip(shares(filters, len(sizes)), sizes, strict=True)]
        return [(filters,)] * (4 if options['batch_normalize'] else 1) + kernels
    if layer.section.kind == 'shortcut' and options['weights_type'] != 'none':
        return [(options['num_inputs'], options['channels'] if options['weights_type'] == 'per_channel' else 1)]
    return []


def _tensors(module: nn.Module | None) -> list[Tensor]:
    """Return the tensors of a layer in file order; none if it has no batch statistics."""
    if isinstance(module, ShortcutLayer):
        return [module.weights]
    if not isinstance(module, ConvLayer):
        return []
    norm, conv = module.bn, module.conv
    kernels = [part.weight for part in conv.convs] if isinstance(conv, MixedConv) else [conv.weight]
    if norm is None:
        return [conv.bias, *kernels]
    statistics = [getattr(norm, 'running_mean', None), getattr(norm, 'running_var', None)]
    return [] if None in [norm.weight, norm.bias, *statistics] else [norm.bias, norm.weight, *statistics, *kernels]
