"""Darknet's ``.cfg`` files: sections, the layers they describe, and the shape of every output.

Names and meanings as Darknet's users document them (pjreddie.com/darknet, and the wiki of AlexeyAB's Darknet). Every
error starts with ``file:line:``. Layers count from 0, without [net].
"""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

# Limits that a published network stays far below: it has at most 300 million weights and 12,000 bytes of text.
MAX_BYTES = 1_000_000
MAX_INTEGER = 2**31 - 1
MAX_WEIGHTS, MAX_CELLS, MAX_KERNEL = 2**29, 2**30, 1000
IMAGE = -1  # index of the input of the first layer

ACTIVATIONS = ('linear', 'leaky', 'relu', 'swish', 'mish', 'logistic')
WEIGHTS_TYPES = ('none', 'per_feature', 'per_channel')
NORMALIZATIONS = ('sigmoid', 'sigmoid_mean', 'relu', 'softmax', 'none')
SYNONYMS = {'network': 'net', 'conv': 'convolutional', 'max': 'maxpool'}
TRAINING = ('net', 'yolo')  # sections whose other fields are about training, which the config of the run decides here
# Fields that change the network in ways that are not implemented: only the value without effect is accepted
UNSUPPORTED = {
    'convolutional': {'dilation': 1, 'antialiasing': 0, 'binary': 0, 'xnor': 0},
    'upsample': {'scale': 1},
    'dropout': {'dropblock': 0},
    'maxpool': {'maxpool_depth': 0, 'antialiasing': 0},
    'yolo': {'scale_x_y': 1, 'new_coords': 0},
}


class Shape(NamedTuple):
    """Shape of a map."""

    channels: int
    height: int
    width: int


@dataclass
class Section:
    """``[kind]`` and its fields: name -> (text, line).

    ``known`` collects the names that were asked for; any other field is an error of :meth:`check_fields`.
    """

    path: Path
    line: int
    kind: str
    fields: dict[str, tuple[str, int]] = field(default_factory=dict)
    known: set[str] = field(default_factory=set)

    def fail(self, message: str, name: str | None = None) -> NoReturn:
        """Raise ValueError at the line of the field ``name``, or of the section."""
        line = self.fields[name][1] if name in self.fields else self.line
        raise ValueError(f'{self.path}:{line}: [{self.kind}] {message}')

    def integer(self, name: str, default: int | None = None, least: int = 0, most: int = MAX_INTEGER) -> int:
        """Return an integer; the field is required if it has no default."""
        wanted = f'{name} must be a whole number from {least} to {most}'
        return self._value(name, default, int, wanted, lambda value: least <= value <= most)

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """Return one of several words; the field is required if it has no default."""
        wanted = f'{name} must be one of {tuple(allowed)}'
        return self._value(name, default, str, wanted, lambda value: value in allowed)

    def numbers(self, name: str, default: list | None = None, kind: type = int) -> list:
        """Return a comma-separated list, which may end with a comma; required if it has no default."""

        def read(text: str) -> list:
            return [kind(part) for part in text.rstrip(', ').split(',')]

        return self._value(name, default, read, f'{name} must be numbers with commas between them', bool)

    def _value(
        self, name: str, default: Any, read: Callable[[str], Any], wanted: str, accepts: Callable[[Any], bool]
    ) -> Any:
        self.known.add(name)
        if name not in self.fields:
            return self.fail(f'{wanted}, but the field is missing') if default is None else default
        text = self.fields[name][0]
        try:
            value = read(text)
        except ValueError:
            self.fail(f'{wanted}, got {text!r}', name)
        return value if accepts(value) else self.fail(f'{wanted}, got {text!r}', name)

    def check_fields(self) -> None:
        """Raise ValueError for a field that is unknown (except in [net] and [yolo]), or has an unsupported value."""
        unsupported = UNSUPPORTED.get(self.kind, {})
        for name, (text, _) in self.fields.items():
            if name in unsupported:
                if text not in (str(unsupported[name]), f'{unsupported[name]}.0'):
                    self.fail(f'{name}={text} is not supported, only {unsupported[name]}', name)
            elif name not in self.known and self.kind not in TRAINING:
                self.fail(f'{name} is an unknown field, must be one of {tuple(sorted(self.known))}', name)


@dataclass(frozen=True)
class Layer:
    """One section: the layers whose outputs it takes, the arguments of its module, and the shape of its output."""

    section: Section
    index: int
    inputs: tuple[int, ...]
    options: dict[str, Any]
    shape: Shape

    def __str__(self) -> str:
        return f'layer {self.index} ([{self.section.kind}], line {self.section.line})'


class Level(NamedTuple):
    """A [yolo] section, the 1x1 convolution ``prediction`` before it, and the layer ``feature`` before that."""

    feature: Layer
    prediction: Layer
    yolo: Layer
    stride: int


class Graph(NamedTuple):
    """A whole file: shape of the image, layers in order, levels in the order of the [yolo] sections."""

    image: Shape
    layers: list[Layer]
    levels: list[Level]


def read_sections(path: str | Path) -> list[Section]:
    """Split a file into sections, without checking their content.

    Raises:
        ValueError: If a line is neither a comment, a section nor ``name=value``, a field is repeated, or the first
            section is not [net].
        FileNotFoundError: If the file does not exist.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'{path} has {path.stat().st_size:,} bytes: a .cfg file has at most {MAX_BYTES:,}')
    sections: list[Section] = []
    for number, raw_line in enumerate(path.read_text(encoding='utf-8-sig').splitlines(), 1):
        text = raw_line.split('#')[0].strip()
        if not text or text.startswith(';'):
            continue
        if text.startswith('['):
            if not text.endswith(']'):
                raise ValueError(f'{path}:{number}: a section starts with [name] on a line of its own, got {text!r}')
            kind = text[1:-1].strip()
            sections.append(Section(path, number, SYNONYMS.get(kind, kind)))
            continue
        if not sections:
            break
        section = sections[-1]
        name, equals, value = (part.strip() for part in text.partition('='))
        if not (name and equals and value):
            raise ValueError(f'{path}:{number}: [{section.kind}] expected name=value, got {text!r}')
        if name in section.fields:
            first = section.fields[name][1]
            raise ValueError(f'{path}:{number}: [{section.kind}] {name} is given twice, first in line {first}')
        section.fields[name] = value, number
    if not sections or sections[0].kind != 'net':
        raise ValueError(f'{path}:1: the file must start with [net]')
    return sections


def read_graph(path: str | Path, weights_normalization: str = 'sigmoid') -> Graph:
    """Read a file and check that all its parts fit together, before any weight is allocated.

    Args:
        path: Of the file.
        weights_normalization: Of each [shortcut] without this field.

    Raises:
        ValueError: With file and line, if a section or field is unknown, a value is invalid, a reference is to no
            layer, maps do not fit, a [yolo] lacks its prediction, or the network exceeds the limits of this module.
        FileNotFoundError: If the file does not exist.
    """
    net, *sections = read_sections(path)
    image = Shape(net.integer('channels', 3, least=1), net.integer('height', least=1), net.integer('width', least=1))
    net.check_fields()
    layers: list[Layer] = []
    weights = 0
    for section in sections:
        if section.kind == 'shortcut':
            section.fields.setdefault('weights_normalization', (weights_normalization, section.line))
        layer = _layer(section, layers, image)
        layers.append(layer)
        if section.kind == 'convolutional':
            options = layer.options
            per_filter = options['in_channels'] // options['groups'] * max(options['sizes']) ** 2
            weights += options['filters'] * per_filter
        if weights > MAX_WEIGHTS:
            section.fail(f'the network has more than {MAX_WEIGHTS:,} weights up to here')
    levels = [_level(layer, layers, image) for layer in layers if layer.section.kind == 'yolo']
    _check_levels(net, levels)
    taken = {level.prediction.index for level in levels} | {level.yolo.index for level in levels}
    for layer in layers:
        wrong = taken.intersection(layer.inputs)
        if wrong and layer.section.kind != 'yolo':
            layer.section.fail(
                f'takes the output of {layers[min(wrong)]}, which is a prediction; continue from another layer by '
                '[route]'
            )
    return Graph(image, layers, levels)


def _layer(section: Section, before: Sequence[Layer], image: Shape) -> Layer:
    if section.kind == 'net':
        section.fail('is there twice')
    if section.kind not in KINDS:
        section.fail(f'is an unknown section, must be one of {tuple(KINDS)}')
    index = len(before)
    inputs = _inputs(section, index)
    options, shape = KINDS[section.kind](section, [image if i == IMAGE else before[i].shape for i in inputs])
    section.check_fields()
    if min(shape) < 1:
        section.fail(f'nothing is left of the map: (channels, height, width) would be {tuple(shape)}')
    if math.prod(shape) > MAX_CELLS:
        section.fail(f'its map of (channels, height, width) {tuple(shape)} has more than {MAX_CELLS:,} cells')
    return Layer(section, index, inputs, options, shape)


def _inputs(section: Section, index: int) -> tuple[int, ...]:
    """Return the layers whose outputs a layer takes; negative references count backwards from it."""
    name = {'route': 'layers', 'shortcut': 'from'}.get(section.kind)
    if name is None:
        return (index - 1,)
    references = section.numbers(name)
    found = [value + index if value < 0 else value for value in references]
    for value, layer in zip(references, found, strict=True):
        if not 0 <= layer < index:
            section.fail(
                f'{name} refers to {value}, which is layer {layer}; this is layer {index}, and those before it are '
                f'{f"0 to {index - 1}" if index else "none"}',
                name,
            )
    return (index - 1, *found) if section.kind == 'shortcut' else tuple(found)


# Each of the following reads a section, given the shapes of its inputs, into the arguments of its module and the shape
# of its output.


def _convolutional(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    """``pad=1`` pads by half the kernel and overrides ``padding``; several sizes make a mixed convolution."""
    channels, height, width = inputs[0]
    filters = section.integer('filters', least=1)
    sizes = tuple(section.numbers('size', [1]))
    if min(sizes) < 1 or max(sizes) > MAX_KERNEL:
        section.fail(f'size must be a whole number from 1 to {MAX_KERNEL}, got {list(sizes)}', 'size')
    half, padding = section.integer('pad', 0, most=1), section.integer('padding', 0, most=MAX_KERNEL)
    paddings = tuple(size // 2 if half else padding for size in sizes)
    groups = section.integer('groups', 1, least=1)
    if channels % groups or filters % groups:
        section.fail(f'groups={groups} must divide the {channels} input channels and filters={filters}', 'groups')
    depthwise = groups == channels == filters
    if len(sizes) > 1 and not (half and all(size % 2 for size in sizes) and filters >= len(sizes)):
        section.fail(f'several sizes must be odd, not more than filters, and need pad=1, got {list(sizes)}', 'size')
    if len(sizes) > 1 and groups > 1 and not depthwise:
        section.fail(f'with several sizes, groups must be 1 or as filters and input channels, got {groups}', 'groups')
    stride = _stride(section)
    options = {
        'in_channels': channels,
        'filters': filters,
        'sizes': sizes,
        'stride': stride,
        'padding': paddings,
        'groups': groups,
        'batch_normalize': bool(section.integer('batch_normalize', 0, most=1)),
        'activation': section.choice('activation', ACTIVATIONS),
    }
    height, width = ((n + 2 * paddings[0] - sizes[0]) // s + 1 for n, s in zip((height, width), stride, strict=True))
    return options, Shape(filters, height, width)


def _stride(section: Section) -> tuple[int, int]:
    """Return the stride of rows and columns, ``stride_y`` and ``stride_x``, by default ``stride``."""
    stride = section.integer('stride', 1, least=1)
    return section.integer('stride_y', stride, least=1), section.integer('stride_x', stride, least=1)


def _maxpool(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    """``size`` is ``stride`` by default, ``padding`` is ``size - 1``: an odd side keeps its last cells."""
    channels, height, width = inputs[0]
    stride = _stride(section)
    size = section.integer('size', section.integer('stride', 1, least=1), least=1, most=MAX_KERNEL)
    padding = section.integer('padding', size - 1)
    if padding > 2 * (size - 1):
        section.fail(f'padding must be at most {2 * (size - 1)} for size={size}, got {padding}', 'padding')
    height, width = ((n + padding - size) // s + 1 for n, s in zip((height, width), stride, strict=True))
    return {'size': size, 'stride': stride, 'padding': padding}, Shape(channels, height, width)


def _upsample(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    channels, height, width = inputs[0]
    factor = section.integer('stride', 2, least=1)
    return {'scale_factor': factor}, Shape(channels, height * factor, width * factor)


def _route(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    """Concatenate the inputs, or the part ``group_id`` of ``groups`` of each."""
    groups, group_id = section.integer('groups', 1, least=1), section.integer('group_id', 0)
    if group_id >= groups:
        section.fail(f'group_id must be below groups={groups}, got {group_id}', 'group_id')
    _check_one_size(section, 'layers', inputs)
    for shape in inputs:
        if shape.channels % groups:
            section.fail(f'groups={groups} must divide the channels of every input, got {shape.channels}', 'groups')
    channels = sum(shape.channels // groups for shape in inputs)
    return {'groups': groups, 'group_id': group_id}, inputs[0]._replace(channels=channels)


def _shortcut(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    """Add other maps to the layer before, whose number of channels stays."""
    _check_one_size(section, 'from', inputs)
    options = {
        'num_inputs': len(inputs),
        'channels': inputs[0].channels,
        'activation': section.choice('activation', ACTIVATIONS, 'linear'),
        'weights_type': section.choice('weights_type', WEIGHTS_TYPES, 'none'),
        'normalization': section.choice('weights_normalization', NORMALIZATIONS, 'sigmoid'),
    }
    return options, inputs[0]


def _check_one_size(section: Section, name: str, inputs: Sequence[Shape]) -> None:
    if len({shape[1:] for shape in inputs}) > 1:
        sizes = ', '.join(f'{height} x {width}' for _, height, width in inputs)
        section.fail(f'the maps must have one size, got {sizes} (height x width)', name)


def _dropout(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    """``probability`` has no default, because Darknet's versions differ in it."""
    numbers = section.numbers('probability', kind=float)
    if len(numbers) > 1 or not 0 <= numbers[0] < 1:
        section.fail(f'probability must be a number from 0 to below 1, got {numbers}', 'probability')
    return {'p': numbers[0]}, inputs[0]


def _yolo(section: Section, inputs: Sequence[Shape]) -> tuple[dict, Shape]:
    """``mask`` selects from ``anchors``, pairs of width and height in px."""
    sides = section.numbers('anchors', kind=float)
    if len(sides) % 2 or not all(0 < side < math.inf for side in sides):
        section.fail(f'anchors must be pairs of a positive width and height, got {sides}', 'anchors')
    pairs = list(zip(sides[::2], sides[1::2], strict=True))
    mask = section.numbers('mask', list(range(len(pairs))))
    if len(set(mask)) < len(mask) or min(mask) < 0 or max(mask) >= len(pairs):
        section.fail(f'mask must be distinct numbers from 0 to {len(pairs) - 1}, got {mask}', 'mask')
    return {'anchors_wh': [pairs[i] for i in mask], 'classes': section.integer('classes', least=1)}, inputs[0]


KINDS: dict[str, Callable[[Section, Sequence[Shape]], tuple[dict, Shape]]] = {
    'convolutional': _convolutional,
    'dropout': _dropout,
    'maxpool': _maxpool,
    'route': _route,
    'shortcut': _shortcut,
    'upsample': _upsample,
    'yolo': _yolo,
}


def _level(yolo: Layer, layers: Sequence[Layer], image: Shape) -> Level:
    section, classes, num_anchors = yolo.section, yolo.options['classes'], len(yolo.options['anchors_wh'])
    prediction = layers[yolo.inputs[0]] if yolo.index else None
    plain = {'sizes': (1,), 'stride': (1, 1), 'padding': (0,), 'groups': 1, 'activation': 'linear'}
    plain['batch_normalize'] = False
    if prediction is None or prediction.index == 0 or not plain.items() <= prediction.options.items():
        section.fail(
            'must follow a [convolutional] of size=1, stride=1, groups=1, activation=linear and no batch_normalize '
            f'that is not the first layer; before it is {prediction or "nothing"}'
        )
    filters, wanted = prediction.options['filters'], num_anchors * (5 + classes)
    if filters != wanted:
        prediction.section.fail(
            f'filters must be masks * (5 + classes) = {num_anchors} * (5 + {classes}) = {wanted} '
            f'for the [yolo] of line {section.line}, got {filters}',
            'filters',
        )
    stride_h, stride_w = image.height / yolo.shape.height, image.width / yolo.shape.width
    if stride_h != stride_w or stride_h % 1:
        section.fail(
            f'its map is {yolo.shape.height} x {yolo.shape.width}, the image {image.height} x {image.width}: the '
            'stride must be one whole number; set height and width of [net] to multiples of the largest stride'
        )
    return Level(layers[prediction.inputs[0]], prediction, yolo, int(stride_h))


def _check_levels(net: Section, levels: Sequence[Level]) -> None:
    if not levels:
        net.fail('the file has no [yolo] section, so nothing is detected')
    first = levels[0]
    for level in levels[1:]:
        if _outputs(level) != _outputs(first):
            level.yolo.section.fail(
                f'has classes and anchors {_outputs(level)}, but the [yolo] of line '
                f'{first.yolo.section.line} has {_outputs(first)}: all must have the same'
            )


def _outputs(level: Level) -> tuple[int, int]:
    """Return the number of classes and of anchors."""
    return level.yolo.options['classes'], len(level.yolo.options['anchors_wh'])
