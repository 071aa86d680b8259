"""Identify the YOLOv5 network of a state dict from the names and shapes of its tensors."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# channels of the stem and the stages at full width, by the number of levels
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
# factors of the published models, tried before every hundredth
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
DEPTHS = (0.33, 0.67, 1.0, 1.33)
HUNDREDTHS = tuple(hundredth / 100 for hundredth in range(1, 401))

Anchors = tuple[tuple[tuple[float, float], ...], ...]


@dataclass(frozen=True)
class Network:
    """A YOLOv5 network, described as in our configs.

    Attributes:
        arch: ``'P5'`` or ``'P6'``.
        version: ``'v5'`` or ``'v6'``.
        deepen_factor: Depth factor of backbone and neck.
        widen_factor: Width factor of backbone and neck.
        num_classes: C.
        anchors: Width and height of each level's anchors, px.
        strides: Stride of each level, px.
        classes: Class names; None if unknown.
        input_size: Side of the training images, px; None if unknown.
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
        """Return the number of feature maps that the head reads."""
        return len(self.strides)


def describe(state_dict: Mapping[str, Tensor], facts: Mapping[str, Any] | None = None) -> Network:
    """Return the network of a state dict in our names.

    Args:
        state_dict: State dict of a ``YOLODetector`` with YOLOv5's backbone, neck and head.
        facts: Further content of the file: any of ``deepen_factor``, ``widen_factor``, ``anchors``, ``strides``,
            ``classes``, ``input_size``. Factors that do not fit the shapes are ignored; the default anchors are the
            published ones.

    Raises:
        ValueError: If it is not such a network, or the facts contradict the shapes.
    """
    facts = {key: value for key, value in (facts or {}).items() if value is not None}
    heads = [name for name in state_dict if re.fullmatch(r'bbox_head\.convs_pred\.\d+\.weight', name)]
    levels = len(heads)
    if levels not in ARCHS:
        raise ValueError(f'a YOLOv5 network has 3 (P5) or 4 (P6) levels, this one {levels}')
    version = 'v5' if 'backbone.layers.0.conv.conv.weight' in state_dict else 'v6'
    strides = tuple(8 * 2**level for level in range(levels))
    if tuple(facts.get('strides', strides)) != strides:
        raise ValueError(f'the strides must be {strides}, the file has {tuple(facts["strides"])}')
    anchors = tuple(
        tuple((_tidy(w), _tidy(h)) for w, h in level)
        for level in facts.get('anchors', PUBLISHED_ANCHORS[ARCHS[levels]])
    )
    if len(anchors) != levels or len({len(level) for level in anchors}) != 1:
        raise ValueError(f'the file has anchors for {[len(level) for level in anchors]}, the head {levels} levels')
    return Network(
        arch=ARCHS[levels],
        version=version,
        deepen_factor=_deepen_factor(state_dict, version, levels, facts.get('deepen_factor')),
        widen_factor=_widen_factor(state_dict, version, levels, facts.get('widen_factor')),
        num_classes=_num_classes(state_dict, heads, len(anchors[0]), facts.get('classes')),
        anchors=anchors,
        strides=strides,
        classes=facts.get('classes'),
        input_size=facts.get('input_size'),
    )


def find_widen_factor(base: Sequence[int], actual: Sequence[int], stated: float | None = None) -> float:
    """Return the factor that scales channels to the actual ones, rounded up to a multiple of 8.

    Args:
        base: Channels at full width.
        actual: Channels of the network.
        stated: Factor in the file, preferred if it fits.

    Raises:
        ValueError: If no factor fits.

    >>> find_widen_factor((64, 1024), (32, 512))
    0.5
    """
    # the exact ratio of the widest layer is the last resort
    factors = (stated, *WIDTHS, *HUNDREDTHS, max(actual) / max(base))
    found = _first_fit(factors, base, actual, lambda channels, factor: math.ceil(channels * factor / 8) * 8)
    if found is None:
        raise ValueError(
            f'channels {tuple(actual)} are not {tuple(base)} times one factor, rounded up to a multiple of 8'
        )
    return found


def find_deepen_factor(base: Sequence[int], actual: Sequence[int], stated: float | None = None) -> float:
    """Return the factor that scales numbers of blocks to the actual ones, rounded, at least 1.

    Raises:
        ValueError: If no factor fits.

    >>> find_deepen_factor((3, 6, 9), (2, 4, 6))
    0.67
    """
    factors = (stated, *DEPTHS, *HUNDREDTHS)
    found = _first_fit(factors, base, actual, lambda blocks, factor: max(round(blocks * factor), 1))
    if found is None:
        raise ValueError(f'blocks {tuple(actual)} are not {tuple(base)} times one factor, rounded')
    return found


def _first_fit(
    factors: Iterable[float | None], base: Sequence[int], actual: Sequence[int], scale: Callable[[int, float], int]
) -> float | None:
    for factor in factors:
        if factor and all(scale(b, factor) == a for b, a in zip(base, actual, strict=True)):
            return factor
    return None


def _widen_factor(state_dict: Mapping[str, Tensor], version: str, levels: int, stated: float | None) -> float:
    stem = 'backbone.layers.0.conv.conv.weight' if version == 'v5' else 'backbone.layers.0.conv.weight'
    names = [stem, *(f'backbone.layers.{stage}.0.conv.weight' for stage in range(1, levels + 2))]
    missing = [name for name in names if name not in state_dict]
    if missing:
        raise ValueError(f'the backbone is not that of YOLOv5: {missing[0]} is missing')
    return find_widen_factor(STAGE_WIDTHS[levels], [len(state_dict[name]) for name in names], stated)


def _deepen_factor(state_dict: Mapping[str, Tensor], version: str, levels: int, stated: float | None) -> float:
    neck = [f'neck.{part}.{joint}' for part in ('top_down_layers', 'bottom_up_layers') for joint in range(levels - 1)]
    patterns = [
        *(rf'backbone\.layers\.{stage}\.\d\.blocks\.(\d+)\.' for stage in range(1, levels + 2)),
        *(rf'{re.escape(part)}\.blocks\.(\d+)\.' for part in neck),
    ]
    blocks = [len({m[1] for name in state_dict if (m := re.match(pattern, name))}) for pattern in patterns]
    return find_deepen_factor((*STAGE_DEPTHS[version, levels], *(NECK_DEPTH for _ in neck)), blocks, stated)


def _num_classes(state_dict: Mapping[str, Tensor], heads: list[str], num_anchors: int, classes: Any) -> int:
    outputs = {len(state_dict[name]) for name in heads}
    count, rest = divmod(max(outputs), num_anchors)
    if len(outputs) > 1 or rest or count < 6:
        raise ValueError(f'the head has {sorted(outputs)} outputs, not {num_anchors} x (5 + classes)')
    if classes is not None and len(classes) != count - 5:
        raise ValueError(f'the head has {count - 5} classes, the file names {len(classes)}: {classes}')
    return count - 5


def _tidy(value: float) -> float:
    return int(value) if value == int(value) else float(value)
