"""YOLOv5 checkpoints of MMYOLO, a state dict as ours with other names.

Its neck counts from deep to shallow, keeps the 1x1 convolution after a top-down block beside it, and the deepest one
apart. For four levels (P6) the names follow by the same rule; shapes tell whether they fit.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from mmyolo_ext.checkpoint.config_text import parse_plain_parts


def is_mmyolo(weights: Mapping[str, Any]) -> bool:
    """Whether the names are MMYOLO's."""
    return any(name.startswith('bbox_head.head_module.convs_pred.') for name in weights)


def to_ours(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """MMYOLO's names -> ours; what is not YOLOv5's keeps its name."""
    levels = len({match[1] for name in weights if (match := re.match(r'bbox_head\..*convs_pred\.(\d+)\.', name))})
    return {
        _renamed(name, levels): value.float() if value.is_floating_point() else value
        for name, value in weights.items()
    }


def facts_of(content: Mapping[str, Any]) -> dict[str, Any]:
    """Class names and anchors, where the file tells; the config inside it is read as text, never executed."""
    meta = content.get('meta')
    meta = meta if isinstance(meta, Mapping) else {}
    dataset = meta.get('dataset_meta')
    dataset = {str(key).lower(): value for key, value in dataset.items()} if isinstance(dataset, Mapping) else {}
    classes = dataset.get('classes')
    return {
        'classes': tuple(map(str, classes)) if isinstance(classes, (list, tuple)) else None,
        'anchors': anchors_of_config(meta.get('cfg')),
    }


def anchors_of_config(text: Any) -> list | None:
    """``base_sizes`` in the text of a config, if it stands there as numbers; px, for each level."""
    for value in _values_of('base_sizes', parse_plain_parts(text)):
        try:
            return [[(float(w), float(h)) for w, h in level] for level in value]
        except (TypeError, ValueError, OverflowError):  # not pairs of numbers
            return None
    return None


def _values_of(key: str, node: Any) -> Iterator[Any]:
    if isinstance(node, dict):
        for name, value in node.items():
            if name == key:
                yield value
            yield from _values_of(key, value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from _values_of(key, value)


def _renamed(name: str, levels: int) -> str:
    if name.startswith('backbone.stem.'):
        return 'backbone.layers.0.' + name.removeprefix('backbone.stem.')
    if name.startswith('bbox_head.head_module.'):
        return 'bbox_head.' + name.removeprefix('bbox_head.head_module.')
    if stage := re.match(r'backbone\.stage(\d+)\.(.*)', name):
        return f'backbone.layers.{stage[1]}.{stage[2]}'
    if deepest := re.match(rf'neck\.reduce_layers\.{levels - 1}\.(.*)', name):
        return f'neck.reduce_layers.{levels - 2}.{deepest[1]}'
    if place := re.match(r'neck\.top_down_layers\.(\d+)\.(.*)', name):
        return _top_down(levels - 2 - int(place[1]), place[2])
    return name


def _top_down(joint: int, rest: str) -> str:
    """Of the joint of levels ``joint`` and ``joint + 1``; the shallowest has a block alone."""
    if joint == 0:
        return f'neck.top_down_layers.0.{rest}'
    number, _, inner = rest.partition('.')
    return f'neck.top_down_layers.{joint}.{inner}' if number == '0' else f'neck.reduce_layers.{joint - 1}.{inner}'
