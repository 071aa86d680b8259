"""``in_channels='auto'``: what a neck or head is given in its place."""

import inspect
from collections.abc import Sequence
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from mmyolo_ext.models.detectors.feature_spec import FeatureSpec
from mmyolo_ext.models.detectors.part_kinds import ancestors

AUTO = 'auto'

# Parts of mmdet that take one number though their signature has no hint, or a wrong one, of it.
ONE_NUMBER = ('YOLOFHead', 'DyHead', 'DilatedEncoder')
# Parts of mmdet that count levels from the deepest on.
DEEP_FIRST = ('YOLOV3Neck',)


class MisfitError(ValueError):
    """Two parts whose configs do not fit together."""


def is_auto(part: dict | None) -> bool:
    """Whether this part, or one of a list of parts, asks for its channels."""
    parts = part if isinstance(part, list | tuple) else [part]
    return any(part is not None and part.get('in_channels') == AUTO for part in parts)


def filled_in(part: dict, features: FeatureSpec | None, giver: str) -> dict:
    """The config with ``'auto'`` replaced; never changes the one it was given.

    Args:
        part: config of a neck or head.
        features: what it is given; needed if it asks.
        giver: name of the part that gives them.

    Raises:
        ValueError: it takes one number, and the maps have several.
    """
    if not is_auto(part):
        return part
    if takes_one_number(part):
        if len(set(features.channels)) > 1:
            raise ValueError(
                f'{part["type"]} takes maps of equal channels (its in_channels is one number), but {giver} gives '
                f'{features.channels}. Put a neck with one out_channels for all levels between them, e.g. mmdet.FPN '
                'or mmdet.ChannelMapper, or give the neck that is there equal out_channels.'
            )
        return {**part, 'in_channels': features.channels[0]}
    return {**part, 'in_channels': in_order(part, features.channels)}


def in_order(part: dict, channels: Sequence[int]) -> list[int]:
    """From the order of the levels, shallow to deep, to the one in which this part counts them; and back."""
    deep_first = any(kind.__name__ in DEEP_FIRST for kind in ancestors(part))
    return list(channels[::-1] if deep_first else channels)


def takes_one_number(part: dict) -> bool:
    """Whether ``in_channels`` of this kind of part is one number for all levels, else a list of one a level.

    Decided by the type hint of the nearest class that gives one: ``RetinaHead`` has none, ``AnchorHead`` above it
    has ``int``. Without any hint it is a list, as for our own parts.
    """
    for ancestor in ancestors(part):
        if ancestor.__name__ in ONE_NUMBER:
            return True
        hint = _hint(ancestor.__dict__.get('__init__'))
        if hint is not None:
            choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            return set(choices) <= {int, type(None)}
    return False


def _hint(init: Any) -> Any:
    """The type hint of ``in_channels``; None without one."""
    if not inspect.isfunction(init) or 'in_channels' not in inspect.signature(init).parameters:
        return None
    try:
        return get_type_hints(init).get('in_channels')
    except Exception:  # hints that name what only type checkers import
        hint = init.__annotations__.get('in_channels')
        return int if hint == 'int' else hint
