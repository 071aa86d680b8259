"""What each kind of section says, and the shape that comes out of it.

Every function takes a section and the shapes of its inputs, and returns the options and the shape; a value that does
not fit raises ValueError at its file and line.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from mmyolo_ext.models.darknet.parser import Section

ACTIVATIONS = ('linear', 'leaky', 'relu', 'swish', 'mish', 'logistic')
WEIGHTS_TYPES = ('none', 'per_feature', 'per_channel')
NORMALIZATIONS = ('sigmoid', 'sigmoid_mean', 'relu', 'softmax', 'none')


class Shape(NamedTuple):
    """Of a map, in cells."""

    channels: int
    height: int
    width: int


class Convolution(NamedTuple):
    """A 2-d convolution with square kernels; ``stride`` is of (rows, columns).

    Of several ``sizes``, each makes its share of the filters; ``padding`` has one number for each size.
    """

    in_channels: int
    filters: int
    sizes: tuple[int, ...]
    stride: tuple[int, int]
    padding: tuple[int, ...]
    groups: int
    batch_normalize: bool
    activation: str


class Pool(NamedTuple):
    """A max-pool; ``stride`` is of (rows, columns), ``padding`` the sum of both sides, the odd cell at the end."""

    size: int
    stride: tuple[int, int]
    padding: int


class Route(NamedTuple):
    """Of each input the part ``group_id`` of ``groups``."""

    groups: int
    group_id: int


class Shortcut(NamedTuple):
    """A sum of maps, weighted or not."""

    num_inputs: int
    channels: int
    activation: str
    weights_type: str
    normalization: str


class Upsample(NamedTuple):
    """Nearest neighbour."""

    factor: int


class Dropout(NamedTuple):
    """The share of numbers that become 0 in training."""

    probability: float


class Yolo(NamedTuple):
    """Priors (w, h) px, classes."""

    priors_wh: tuple[tuple[float, float], ...]
    classes: int


def convolution_options(section: Section, inputs: Sequence[Shape]) -> tuple[Convolution, Shape]:
    """``pad=1`` is half the kernel on every side, in place of ``padding``; several sizes make a mixed convolution."""
    (shape,) = inputs
    filters = section.integer('filters', least=1)
    sizes = tuple(section.numbers('size')) if 'size' in section.fields else (1,)
    if min(sizes) < 1:
        section.fail(f'size must be a whole number of at least 1, got {section.fields["size"].text!r}', 'size')
    half = section.switch('pad')
    padding = tuple(size // 2 if half else section.integer('padding', 0) for size in sizes)
    groups = section.integer('groups', 1, least=1)
    if shape.channels % groups or filters % groups:
        section.fail(
            f'groups={groups} must divide the {shape.channels} input channels and filters={filters}', 'groups'
        )
    if len(sizes) > 1:
        _check_mixed(section, shape.channels, filters, sizes, half, groups)
    options = Convolution(
        shape.channels,
        filters,
        sizes,
        _stride(section, 1),
        padding,
        groups,
        section.switch('batch_normalize'),
        section.choice('activation', ACTIVATIONS),
    )
    height, width = (
        (side + 2 * padding[0] - sizes[0]) // stride + 1
        for side, stride in zip(shape[1:], options.stride, strict=True)
    )
    return options, Shape(filters, height, width)


def shares(total: int, parts: int) -> list[int]:
    """Filters of each size of a mixed convolution: equal shares, the first with what is left over."""
    return [total // parts + total % parts, *[total // parts] * (parts - 1)]


def _check_mixed(
    section: Section, channels: int, filters: int, sizes: tuple[int, ...], half: bool, groups: int
) -> None:
    if len(sizes) > filters:
        section.fail(f'size names {len(sizes)} kernels for filters={filters}: each needs one', 'size')
    if not half or not all(size % 2 for size in sizes):
        section.fail(f'several sizes must be odd and need pad=1, so that their maps fit, got {list(sizes)}', 'size')
    if groups > 1 and not groups == channels == filters:
        section.fail(
            f'groups beside several sizes must be 1, or the number of input channels and of filters, got {groups} for '
            f'{channels} and {filters}',
            'groups',
        )


def _stride(section: Section, default: int) -> tuple[int, int]:
    """Of rows and columns: ``stride_y`` and ``stride_x``, which are ``stride`` unless given."""
    stride = section.integer('stride', default, least=1)
    return section.integer('stride_y', stride, least=1), section.integer('stride_x', stride, least=1)


def maxpool_options(section: Section, inputs: Sequence[Shape]) -> tuple[Pool, Shape]:
    """``size`` is ``stride`` unless given, ``padding`` is ``size - 1``: an odd side keeps its last cells."""
    (shape,) = inputs
    stride = _stride(section, 1)
    size = section.integer('size', section.integer('stride', 1, least=1), least=1)
    padding = section.integer('padding', size - 1)
    if padding > 2 * (size - 1):
        section.fail(f'padding must be at most {2 * (size - 1)} for size={size}, got {padding}', 'padding')
    height, width = ((side + padding - size) // step + 1 for side, step in zip(shape[1:], stride, strict=True))
    return Pool(size, stride, padding), Shape(shape.channels, height, width)


def upsample_options(section: Section, inputs: Sequence[Shape]) -> tuple[Upsample, Shape]:
    """``stride`` times as many rows and columns."""
    (shape,) = inputs
    factor = section.integer('stride', 2, least=1)
    return Upsample(factor), Shape(shape.channels, shape.height * factor, shape.width * factor)


def route_options(section: Section, inputs: Sequence[Shape]) -> tuple[Route, Shape]:
    """Inputs, or a part of the channels of each, one behind the other."""
    groups, group_id = section.integer('groups', 1, least=1), section.integer('group_id', 0)
    if group_id >= groups:
        section.fail(f'group_id must be below groups={groups}, got {group_id}', 'group_id')
    _check_sizes(section, 'layers', inputs)
    for shape in inputs:
        if shape.channels % groups:
            section.fail(f'groups={groups} must divide the channels of every input, got {shape.channels}', 'groups')
    channels = sum(shape.channels // groups for shape in inputs)
    return Route(groups, group_id), inputs[0]._replace(channels=channels)


def shortcut_options(section: Section, inputs: Sequence[Shape]) -> tuple[Shortcut, Shape]:
    """The layer before plus others; it keeps the width of the layer before."""
    _check_sizes(section, 'from', inputs)
    options = Shortcut(
        len(inputs),
        inputs[0].channels,
        section.choice('activation', ACTIVATIONS, 'linear'),
        section.choice('weights_type', WEIGHTS_TYPES, 'none'),
        section.choice('weights_normalization', NORMALIZATIONS, 'sigmoid'),
    )
    return options, inputs[0]


def dropout_options(section: Section, inputs: Sequence[Shape]) -> tuple[Dropout, Shape]:
    """``probability`` has no default: Darknet's versions differ in it."""
    (probability, *more) = section.numbers('probability', float)
    if more or not 0 <= probability < 1:
        section.fail(
            f'probability must be a number from 0 to below 1, got {section.fields["probability"].text!r}',
            'probability',
        )
    return Dropout(probability), inputs[0]


def yolo_options(section: Section, inputs: Sequence[Shape]) -> tuple[Yolo, Shape]:
    """``mask`` picks from ``anchors``, pairs of width and height in px."""
    anchors = section.numbers('anchors', float)
    if len(anchors) % 2 or not all(0 < side < math.inf for side in anchors):
        section.fail(f'anchors must be pairs of a positive width and height, got {anchors}', 'anchors')
    pairs = list(zip(anchors[::2], anchors[1::2], strict=True))
    if section.integer('num', len(pairs)) != len(pairs):
        section.fail(f'num must be the number of anchors, {len(pairs)}, got {section.integer("num")}', 'num')
    mask = section.numbers('mask') if 'mask' in section.fields else list(range(len(pairs)))
    if len(set(mask)) < len(mask) or min(mask) < 0 or max(mask) >= len(pairs):
        section.fail(f'mask must be distinct numbers from 0 to {len(pairs) - 1}, got {mask}', 'mask')
    return Yolo(tuple(pairs[i] for i in mask), section.integer('classes', least=1)), inputs[0]


def _check_sizes(section: Section, name: str, inputs: Sequence[Shape]) -> None:
    """Heights and widths of all inputs are the same."""
    sizes = [shape[1:] for shape in inputs]
    if len(set(sizes)) > 1:
        told = ', '.join(f'{height} x {width}' for height, width in sizes)
        section.fail(f'the maps must have one size, got {told} (height x width)', name)
