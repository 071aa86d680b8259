"""Which YOLOv5 network a state dict belongs to, told by the names and shapes of its tensors."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# channels of the stem and the stages at full width, and of the neck's outputs, by the number of levels
STAGE_WIDTHS = {3: (64, 128, 256, 512, 1024), 4: (64, 128, 256, 512, 768, 1024)}
STAGE_DEPTHS = {
    ('v6', 3): (3, 6, 9, 3),
    ('v6', 4): (3, 6, 9, 3, 3),
    ('v5', 3): (3, 9, 9, 3),
    ('v5', 4): (3, 9, 9, 3, 3),
}
ARCHS = {3: 'P5', 4: 'P6'}
# sizes of the max-pools that end the backbone
POOLS = {('v6', 3): (5,), ('v6', 4): (5,), ('v5', 3): (5, 9, 13), ('v5', 4): (3, 5, 7)}
NECK_DEPTH = 3
PUBLISHED_ANCHORS = {
    'P5': (
        ((10, 13), (16, 30), (33, 23)),
        ((30, 61), (62, 45), (59, 119)),
        ((116, 90), (156, 198), (373, 326)),
    ),
    'P6': (
        ((19, 27), (44, 40), (38, 94)),
        ((96, 68), (86, 152), (180, 137)),
        ((140, 301), (303, 264), (238, 542)),
        ((436, 615), (739, 380), (925, 792)),
    ),
}

Anchors = tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Network:
    """A YOLOv5 network, in the words of our configs.

    Attributes:
        arch: ``'P5'`` or ``'P6'``.
        version: ``'v5'`` or ``'v6'``.
        deepen_factor: of backbone and neck.
        widen_factor: likewise.
        num_classes: C.
        anchors: width and height in px, three of each level.
        strides: px a cell, of each level.
        classes: their names; None where the file does not tell.
        input_size: side of the pictures it was trained with, px; None where the file does not tell.
    """

    arch: str
    version: str
    deepen_factor: float
    widen_factor: float
    num_classes: int
    anchors: Anchors
    strides: tuple[int, ...]
    classes: tuple[str, ...] | None = None
    input_size: int | None = None

    @property
    def levels(self) -> int:
        """How many maps the head reads."""
        return len(self.strides)


def describe(state_dict: Mapping[str, Tensor], told: Mapping[str, Any] | None = None) -> Network:
    """The network of a state dict in our names.

    Args:
        state_dict: of a ``YOLODetector`` with YOLOv5's backbone, neck and head.
        told: what the file says besides: any of ``deepen_factor``, ``widen_factor``, ``anchors``, ``strides``,
            ``classes``, ``input_size``. Factors that do not fit the shapes are passed over; anchors are the published
            ones where nothing is told.

    Raises:
        ValueError: it is no such network, or its parts do not fit each other.
    """
    told = {key: value for key, value in (told or {}).items() if value is not None}
    heads = [name for name in state_dict if re.fullmatch(r'bbox_head\.convs_pred\.\d+\.weight', name)]
    levels = len(heads)
    if levels not in ARCHS:
        raise ValueError(f'a YOLOv5 network has 3 (P5) or 4 (P6) levels, this one {levels}')
    version = 'v5' if 'backbone.layers.0.conv.conv.weight' in state_dict else 'v6'
    anchors = _anchors(told.get('anchors', PUBLISHED_ANCHORS[ARCHS[levels]]), levels)
    return Network(
        arch=ARCHS[levels],
        version=version,
        deepen_factor=_deepen_factor(state_dict, version, levels, told.get('deepen_factor')),
        widen_factor=_widen_factor(state_dict, version, levels, told.get('widen_factor')),
        num_classes=_num_classes(state_dict, heads, len(anchors[0]), told.get('classes')),
        anchors=anchors,
        strides=_strides(told.get('strides'), levels),
        classes=told.get('classes'),
        input_size=told.get('input_size'),
    )


def _widen_factor(state_dict: Mapping[str, Tensor], version: str, levels: int, told: float | None) -> float:
    stem = 'backbone.layers.0.conv.conv.weight' if version == 'v5' else 'backbone.layers.0.conv.weight'
    names = [stem, *(f'backbone.layers.{stage}.0.conv.weight' for stage in range(1, levels + 2))]
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise ValueError(f'the backbone is not that of YOLOv5: {missing[0]} is missing')
    return find_widen_factor(STAGE_WIDTHS[levels], [len(state_dict[name]) for name in names], told)


def _deepen_factor(state_dict: Mapping[str, Tensor], version: str, levels: int, told: float | None) -> float:
    stages = [_count(state_dict, rf'backbone\.layers\.{stage}\.\d\.blocks\.(\d+)\.') for stage in range(1, levels + 2)]
    neck = [
        _count(state_dict, rf'neck\.{part}\.{joint}\.blocks\.(\d+)\.')
        for part in ('top_down_layers', 'bottom_up_layers')
        for joint in range(levels - 1)
    ]
    base = (*STAGE_DEPTHS[version, levels], *(NECK_DEPTH for _ in neck))
    return find_deepen_factor(base, [*stages, *neck], told)


def _count(state_dict: Mapping[str, Tensor], pattern: str) -> int:
    return len({match[1] for name in state_dict if (match := re.match(pattern, name))})


def _num_classes(state_dict: Mapping[str, Tensor], heads: list[str], priors: int, classes: Any) -> int:
    outputs = {len(state_dict[name]) for name in heads}
    count, rest = divmod(max(outputs), priors)
    if len(outputs) > 1 or rest or count < 6:
        raise ValueError(f'the head has {sorted(outputs)} outputs, not {priors} x (5 + classes)')
    if classes is not None and len(classes) != count - 5:
        raise ValueError(f'the head has {count - 5} classes, the file names {len(classes)}: {classes}')
    return count - 5


def _strides(told: Any, levels: int) -> tuple[int, ...]:
    ours = tuple(8 * 2**level for level in range(levels))
    if told is not None and tuple(told) != ours:
        raise ValueError(f'the strides must be {ours}, the file has {tuple(told)}')
    return ours


def _anchors(anchors: Any, levels: int) -> Anchors:
    plain = tuple(tuple((_tidy(w), _tidy(h)) for w, h in level) for level in anchors)
    if len(plain) != levels or len({len(level) for level in plain}) != 1:
        raise ValueError(f'the file has anchors for {[len(level) for level in plain]}, the head {levels} levels')
    return plain


def _tidy(value: float) -> float:
    return int(value) if value == int(value) else float(value)


# of the models that are published, and then every hundredth
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
DEPTHS = (0.33, 0.67, 1.0, 1.33)
HUNDREDTHS = tuple(hundredth / 100 for hundredth in range(1, 401))


def find_widen_factor(base: Sequence[int], actual: Sequence[int], told: float | None = None) -> float:
    """The factor by which channels become those that are there: times the factor, rounded up to a multiple of 8.

    Args:
        base: channels at full width.
        actual: those of the network.
        told: what the file says; taken if it fits.

    Raises:
        ValueError: no factor fits.

    >>> find_widen_factor((64, 1024), (32, 512))
    0.5
    """
    fits = _fits(base, actual, lambda channels, factor: math.ceil(channels * factor / 8) * 8)
    # the exact ratio of the widest layer is left where no hundredth fits
    for factor in (told, *WIDTHS, *HUNDREDTHS, max(actual) / max(base)):
        if factor and fits(factor):
            return factor
    raise ValueError(f'channels {tuple(actual)} are not {tuple(base)} times one factor, rounded up to a multiple of 8')


def find_deepen_factor(base: Sequence[int], actual: Sequence[int], told: float | None = None) -> float:
    """The factor by which numbers of blocks become those that are there: times the factor, rounded, at least 1.

    Raises:
        ValueError: no factor fits.

    >>> find_deepen_factor((3, 6, 9), (2, 4, 6))
    0.67
    """
    fits = _fits(base, actual, lambda blocks, factor: max(round(blocks * factor), 1))
    for factor in (told, *DEPTHS, *HUNDREDTHS):
        if factor and fits(factor):
            return factor
    raise ValueError(f'blocks {tuple(actual)} are not {tuple(base)} times one factor, rounded')


def _fits(base: Sequence[int], actual: Sequence[int], scaled: Callable[[int, float], int]) -> Callable[[float], bool]:
    return lambda factor: all(scaled(b, factor) == a for b, a in zip(base, actual, strict=True))
