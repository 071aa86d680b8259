"""A detector described by a Darknet ``.cfg`` file, and Darknet's ``.weights`` files.

A ``.weights`` file is a header, then the float32 values of every layer in the order of the ``.cfg`` file, all
little-endian. Header: major, minor and revision of the format, int32; then the number of training images, 64 bits
from version 0.2 on, 32 before. A convolution with batch norm has the norm's bias, weight, running mean and running
variance, then its kernels (filters, channels, rows, columns) in the order of their sizes; without a norm it has its
bias, then the kernels; a weighted shortcut has its weights.
"""

import re
import struct
from collections.abc import Sequence
from logging import WARNING
from pathlib import Path
from typing import NamedTuple

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
        train_cfg: Passed to the head.
        test_cfg: Passed to the head.
        data_preprocessor: By default RGB from 0 to 1, padded with grey to a multiple of the largest stride.
        frozen_parts: See :class:`YOLODetector`.
        init_cfg: As in MMEngine.

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
        train_cfg: dict | None = None,
        test_cfg: dict | None = None,
        data_preprocessor: dict | None = None,
        frozen_parts: str | Sequence[str] = (),
        init_cfg: dict | list[dict] | None = None,
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
            train_cfg=train_cfg,
            test_cfg=test_cfg,
            data_preprocessor=data_preprocessor or preprocessor,
            frozen_parts=frozen_parts,
            init_cfg=init_cfg,
        )
        self.graph = graph
        self.weights = weights

    def init_weights(self) -> None:
        """Initialize all weights, then load the ``.weights`` file, if there is one."""
        first_time = not self.is_init
        super().init_weights()
        if self.weights is not None and first_time:
            self.load_weights(self.weights)

    def load_weights(self, path: str | Path, num_layers: int | None = None) -> int:
        """Load a ``.weights`` file. Nothing is changed unless the whole file fits.

        A predicting convolution with other classes than the ``.cfg`` file keeps its weights, with a warning.

        Args:
            path: Of the file.
            num_layers: The file has the first so many layers only; by default the number in ``.conv.<number>`` at the
                end of its name, otherwise all.

        Returns:
            Number of images the network was trained on.

        Raises:
            ValueError: If it is no such file, or ends too early or too late for the layers; the message names the
                layer.
        """
        path = Path(path)
        seen, values = _read(path)
        partial = PARTIAL_FILE.search(path.name)
        if num_layers is None and partial:
            num_layers = int(partial[1])
        blocks = [block for block in self._blocks() if num_layers is None or block.layer.index < num_layers]
        _check_length(path, blocks, len(values))
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
                    f'{block.layer} of {block.layer.section.path} differs in this detector: write the classes and '
                    'filters of the head into the .cfg file, and build the detector from that'
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

    def count(self) -> int:
        """Return the number of values."""
        return sum(int(np.prod(shape)) for shape in self.shapes)


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


def _check_length(path: Path, blocks: Sequence[Block], given: int) -> None:
    end = 0
    for block in blocks:
        if end + block.count() > given:
            raise ValueError(
                f'{path} ends within {block.layer} of {block.layer.section.path}: it has {given - end} of its '
                f'{block.count()} values. The file is truncated, or belongs to another .cfg file'
            )
        end += block.count()
    if end < given:
        raise ValueError(
            f'{path} has {given - end} values after {blocks[-1].layer if blocks else "no layer"}, the last one to '
            'read. It belongs to another .cfg file'
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
