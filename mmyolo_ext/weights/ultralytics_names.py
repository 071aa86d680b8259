"""Ultralytics' numbered layers and our named parts, for a network of any number of levels.

The numbers follow from the order of the layers: a stem; for every stage a convolution and a CSP block, around the last
of which stands the pooling; top-down, for every joint of two levels a 1x1 convolution, an upsampling, a concatenation
and a block; bottom-up, for every joint a convolution, a concatenation and a block; the head.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor

CONV, CSP, POOLING, HEAD = 'convolution', 'CSP block', 'pooling', 'head'
# inside a layer: Ultralytics' name, ours
INSIDE = {
    CONV: [(r'', r'')],
    CSP: [
        (r'm\.(\d+)\.cv([12])\.', r'blocks.\1.conv\2.'),
        (r'cv1\.', r'main_conv.'),
        (r'cv2\.', r'short_conv.'),
        (r'cv3\.', r'final_conv.'),
    ],
    POOLING: [(r'cv([12])\.', r'conv\1.')],
    HEAD: [(r'm\.(\d+)\.', r'convs_pred.\1.')],
}
OUTSIDE = {
    CONV: INSIDE[CONV],
    CSP: [
        (r'blocks\.(\d+)\.conv([12])\.', r'm.\1.cv\2.'),
        (r'main_conv\.', r'cv1.'),
        (r'short_conv\.', r'cv2.'),
        (r'final_conv\.', r'cv3.'),
    ],
    POOLING: [(r'conv([12])\.', r'cv\1.')],
    HEAD: [(r'convs_pred\.(\d+)\.', r'm.\1.')],
}
NOT_WEIGHTS = ('anchors', 'anchor_grid')  # buffers of the head, which our configs hold


class Layer(NamedTuple):
    """One numbered layer that has weights; ``part`` is its name with us."""

    number: int
    part: str
    kind: str


def layers(levels: int, version: str) -> Iterator[Layer]:
    """All layers with weights of a network with so many levels."""
    yield Layer(0, 'backbone.layers.0', CONV)
    last = levels + 1
    for stage in range(1, last + 1):
        yield Layer(2 * stage - 1, f'backbone.layers.{stage}.0', CONV)
        kinds = (CSP,) if stage < last else (POOLING, CSP) if version == 'v5' else (CSP, POOLING)
        for place, kind in enumerate(kinds, 1):
            yield Layer(2 * stage - 1 + place, f'backbone.layers.{stage}.{place}', kind)
    start = 2 * last + 2
    for joint in reversed(range(levels - 1)):
        number = start + 4 * (levels - 2 - joint)
        yield Layer(number, f'neck.reduce_layers.{joint}', CONV)
        yield Layer(number + 3, f'neck.top_down_layers.{joint}', CSP)
    start += 4 * (levels - 1)
    for joint in range(levels - 1):
        yield Layer(start + 3 * joint, f'neck.downsample_layers.{joint}', CONV)
        yield Layer(start + 3 * joint + 2, f'neck.bottom_up_layers.{joint}', CSP)
    yield Layer(start + 3 * (levels - 1), 'bbox_head', HEAD)


def head_number(levels: int) -> int:
    """The number of the head, which is the last layer."""
    return 9 * levels - 3


def to_ours(weights: Mapping[str, Tensor], levels: int, version: str) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """``model.N....`` -> our names; and the names that are no weights.

    Raises:
        ValueError: a layer or a part of one that YOLOv5 does not have there.
    """
    known = {layer.number: layer for layer in layers(levels, version)}
    renamed, others = {}, []
    for name, tensor in weights.items():
        match = re.fullmatch(r'model\.(\d+)\.(.+)', name)
        layer = known.get(int(match[1])) if match else None
        if layer and layer.kind == HEAD and match[2] in NOT_WEIGHTS:
            others.append(name)
            continue
        inner = _renamed(match[2], INSIDE[layer.kind]) if layer else None
        if inner is None:
            place = f'the {layer.kind}' if layer else 'no layer with weights'
            raise ValueError(f'{name} is not part of YOLOv5 {version}, which has {place} there')
        renamed[f'{layer.part}.{inner}'] = tensor
    return renamed, tuple(others)


def from_ours(weights: Mapping[str, Tensor], levels: int, version: str) -> dict[str, Tensor]:
    """Our names -> ``model.N....``, in the order of the layers.

    Raises:
        ValueError: a name that no layer has.
    """
    parts = sorted(layers(levels, version), key=lambda layer: layer.number)
    renamed = {}
    for layer in parts:
        inside = {name: name.removeprefix(f'{layer.part}.') for name in weights if name.startswith(f'{layer.part}.')}
        for name, rest in inside.items():
            inner = _renamed(rest, OUTSIDE[layer.kind])
            if inner is None:
                raise ValueError(f'{name} has no name in Ultralytics YOLOv5: it is not in {layer.kind}s there')
            renamed[f'model.{layer.number}.{inner}'] = weights[name]
    if len(renamed) != len(weights):
        known = tuple(f'{layer.part}.' for layer in parts)
        left = [name for name in weights if not name.startswith(known)]
        raise ValueError(f'{len(left)} tensors have no place in Ultralytics YOLOv5: {", ".join(left[:3])}')
    return renamed


def _renamed(name: str, rules: list[tuple[str, str]]) -> str | None:
    for pattern, replacement in rules:
        if re.match(pattern, name):
            return re.sub(f'^{pattern}', replacement, name)
    return None
