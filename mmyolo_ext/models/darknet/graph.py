"""From the sections of a ``.cfg`` file to layers whose inputs and shapes are known, before any weight is made.

Layers count from 0, [net] left out. Sizes are those of the picture that [net] names.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from mmyolo_ext.models.darknet.options import (
    Shape,
    convolution_options,
    dropout_options,
    maxpool_options,
    route_options,
    shortcut_options,
    upsample_options,
    yolo_options,
)
from mmyolo_ext.models.darknet.parser import Field, Section, read_sections
from mmyolo_ext.models.darknet.vocabulary import OTHER_NAMES, check_vocabulary

PICTURE = -1  # the input of the first layer
# far beyond any published network, which has at most 300 million weights
MAX_WEIGHTS, MAX_CELLS, MAX_KERNEL = 2**29, 2**30, 1000


@dataclass(frozen=True)
class Layer:
    """One section: whose outputs it takes, what it does to them, and the shape that comes out."""

    section: Section
    index: int
    inputs: tuple[int, ...]
    options: Any
    shape: Shape

    def __str__(self) -> str:
        return f'layer {self.index} ([{self.section.kind}], line {self.section.line})'


class Level(NamedTuple):
    """Where a [yolo] section predicts: on the map of ``feature``, by the 1x1 convolution ``prediction``."""

    feature: Layer
    prediction: Layer
    yolo: Layer
    stride: int


class Graph(NamedTuple):
    """A whole file: the picture's shape, all layers in order, and the levels in the file's order."""

    picture: Shape
    layers: list[Layer]
    levels: list[Level]


def read_graph(path: str | Path, weights_normalization: str = 'sigmoid') -> Graph:
    """Read a file and check that every part of it fits the others.

    Args:
        path: of the file.
        weights_normalization: of each [shortcut] that does not have the field.

    Raises:
        ValueError: whatever does not, at its file and line: an unknown section or field, a bad value, a reference to a
            layer that is not there, maps that do not fit, a [yolo] without its prediction.
        FileNotFoundError: no such file.
    """
    net, *sections = read_sections(path)
    if OTHER_NAMES.get(net.kind, net.kind) != 'net':
        net.fail('the file must start with [net]')
    check_vocabulary(net)
    picture = Shape(net.integer('channels', 3, least=1), net.integer('height', least=1), net.integer('width', least=1))
    layers: list[Layer] = []
    for section in sections:
        check_vocabulary(section)
        if section.kind == 'net':
            section.fail('is there twice')
        if section.kind == 'shortcut':
            section.fields.setdefault('weights_normalization', Field(weights_normalization, section.line))
        layers.append(_layer(section, layers, picture))
    _check_size(layers)
    levels = [_level(layer, layers, picture) for layer in layers if layer.section.kind == 'yolo']
    _check_levels(net, levels)
    _check_uses(layers, levels)
    return Graph(picture, layers, levels)


def _layer(section: Section, before: Sequence[Layer], picture: Shape) -> Layer:
    index = len(before)
    inputs = tuple(_references(section, index))
    shapes = [picture if i == PICTURE else before[i].shape for i in inputs]
    options, shape = KINDS[section.kind](section, shapes)
    if min(shape) < 1:
        section.fail(f'nothing is left of the map: (channels, height, width) would be {tuple(shape)}')
    if math.prod(shape) > MAX_CELLS:
        section.fail(f'its map of (channels, height, width) {tuple(shape)} has more than {MAX_CELLS:,} cells')
    for name, field in (('size', 'size'), ('sizes', 'size'), ('padding', 'padding')):
        values = getattr(options, name, 0)
        value = max(values) if isinstance(values, tuple) else values
        if value > MAX_KERNEL:
            section.fail(f'{field} must be at most {MAX_KERNEL}, got {value}', field)
    return Layer(section, index, inputs, options, shape)


def _check_size(layers: Sequence[Layer]) -> None:
    """Refuse a network that would fill the memory, before any weight is made."""
    total = 0
    for layer in layers:
        if layer.section.kind == 'convolutional':
            options = layer.options
            total += options.filters * options.in_channels // options.groups * max(options.sizes) ** 2
        if total > MAX_WEIGHTS:
            layer.section.fail(f'the network has more than {MAX_WEIGHTS:,} weights up to here')


def _references(section: Section, index: int) -> list[int]:
    """Layers whose outputs this one takes: those before, counted backwards if negative, else from the first on."""
    name = {'route': 'layers', 'shortcut': 'from'}.get(section.kind)
    if name is None:
        return [index - 1]
    found = [value + index if value < 0 else value for value in section.numbers(name)]
    for value, layer in zip(section.numbers(name), found, strict=True):
        if not 0 <= layer < index:
            section.fail(
                f'{name} refers to {value}, which is layer {layer}; this is layer {index}, and those before it are '
                f'{f"0 to {index - 1}" if index else "none"}',
                name,
            )
    if section.kind == 'shortcut':
        return [index - 1, *found]
    return found


KINDS: dict[str, Callable[[Section, Sequence[Shape]], tuple[Any, Shape]]] = {
    'convolutional': convolution_options,
    'dropout': dropout_options,
    'maxpool': maxpool_options,
    'route': route_options,
    'shortcut': shortcut_options,
    'upsample': upsample_options,
    'yolo': yolo_options,
}


def _level(yolo: Layer, layers: Sequence[Layer], picture: Shape) -> Level:
    section, options = yolo.section, yolo.options
    prediction = layers[yolo.inputs[0]] if yolo.index else None
    if prediction is None or not _predicts(prediction):
        section.fail(
            'must follow a [convolutional] of size=1, stride=1, groups=1, activation=linear and no batch_normalize, '
            f'which predicts; before it is {prediction or "nothing"}'
        )
    wanted = len(options.priors_wh) * (5 + options.classes)
    if prediction.options.filters != wanted:
        prediction.section.fail(
            f'filters must be masks * (5 + classes) = {len(options.priors_wh)} * (5 + {options.classes}) = {wanted} '
            f'for the [yolo] of line {section.line}, got {prediction.options.filters}',
            'filters',
        )
    if prediction.index == 0:
        prediction.section.fail('predicts from the picture itself; a layer must come before it')
    strides = (picture.height / yolo.shape.height, picture.width / yolo.shape.width)
    if strides[0] != strides[1] or strides[0] % 1:
        section.fail(
            f'its map is {yolo.shape.height} x {yolo.shape.width}, the picture {picture.height} x {picture.width}: '
            'the stride must be one whole number; set height and width of [net] to multiples of the largest stride'
        )
    return Level(layers[prediction.inputs[0]], prediction, yolo, int(strides[0]))


def _predicts(layer: Layer) -> bool:
    if layer.section.kind != 'convolutional':
        return False
    options = layer.options
    geometry = (options.sizes, options.stride, options.padding, options.groups)
    return geometry == ((1,), (1, 1), (0,), 1) and options.activation == 'linear' and not options.batch_normalize


def _check_levels(net: Section, levels: Sequence[Level]) -> None:
    if not levels:
        net.fail('the file has no [yolo] section, so nothing is detected')
    for level in levels[1:]:
        first, options = levels[0].yolo, level.yolo.options
        if options.classes != first.options.classes:
            level.yolo.section.fail(
                f'classes={options.classes}, but the [yolo] of line {first.section.line} has {first.options.classes}',
                'classes',
            )
        if len(options.priors_wh) != len(first.options.priors_wh):
            level.yolo.section.fail(
                f'mask has {len(options.priors_wh)} priors, but the [yolo] of line {first.section.line} has '
                f'{len(first.options.priors_wh)}; all must have the same number',
                'mask',
            )


def _check_uses(layers: Sequence[Layer], levels: Sequence[Level]) -> None:
    """Predictions leave the network: no layer but their [yolo] takes them."""
    taken = {level.prediction.index for level in levels} | {level.yolo.index for level in levels}
    for layer in layers:
        wrong = taken.intersection(layer.inputs)
        if wrong and layer.section.kind != 'yolo':
            layer.section.fail(
                f'takes the output of {layers[min(wrong)]}, which is a prediction; go on from another layer by [route]'
            )
