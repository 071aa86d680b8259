"""A config on top of another one, with other values at some places of it."""

import keyword
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.tuning.keys import Place, value_at
from mmyolo_ext.apis.tuning.space import Parameter

WIDTH = 100  # of a line
RESERVED = dir(dict)  # names that are methods where an attribute is meant


def delta_text(config: Path, folder: Path, values: dict[str, tuple[Parameter, Any]], notes: Iterable[str] = ()) -> str:
    """The text of a config in ``folder``, based on ``config``.

    What lies in a list is set in the list of the base, for a list of one's own would replace it whole.

    Args:
        config: file of the base.
        folder: where the text will stand.
        values: by key: the parameter and the value that it gets.
        notes: lines of comment at its top.
    """
    base = Path(os.path.relpath(config.resolve(), folder.resolve())).as_posix()
    settings = [(place, value) for parameter, value in values.values() for place in parameter.places]
    lines = [*(f'# {note}' for note in notes), f'_base_ = [{base!r}]', '']
    for name in dict.fromkeys(place[0] for place, _ in settings):
        below = [(place[1:], value) for place, value in settings if place[0] == name]
        if any(isinstance(step, int) for place, _ in below for step in place):
            lines += [f'{name} = _base_.{name}', *(f'{name}{_trail(place)} = {value!r}' for place, value in below)]
        else:
            lines += _lines(f'{name} = ', _tree(below))
    return '\n'.join(lines) + '\n'


def check_effect(path: Path, values: dict[str, tuple[Parameter, Any]], options: dict | None) -> Config:
    """Read a config that was written with these values, with options on top, and see that it has them.

    Raises:
        ValueError: naming the key that is set by something else, such as a shortcut in the config it is based on.
    """
    for key in values:
        if key in (options or {}):
            raise ValueError(f'{key!r} is in the space and in --cfg-options: leave it out of one')
    cfg = load_config(path, options)
    for key, (parameter, value) in values.items():
        for place in parameter.places if key != parameter.places[0][0] else ():
            try:
                there = value_at(cfg._cfg_dict, place)
            except (KeyError, IndexError, TypeError, AttributeError):
                there = None
            if there != value:
                raise ValueError(
                    f'setting {key!r} to {value!r} changes nothing: it is {there!r} still, for a shortcut of the '
                    'config (batch_size, input_size, ...) or an option sets it after; search that in its place'
                )
    return cfg


class _Tree(dict):
    """Settings that lie below a name; a dict that is a value is none."""


def _tree(settings: list[tuple[Place, Any]]) -> Any:
    if settings[0][0] == ():
        return settings[0][1]
    steps = dict.fromkeys(place[0] for place, _ in settings)
    return _Tree(
        {step: _tree([(place[1:], value) for place, value in settings if place[0] == step]) for step in steps}
    )


def _inline(node: Any) -> str:
    """``dict(a=1, b=dict(c=2))``."""
    if not isinstance(node, _Tree):
        return repr(node)
    if all(map(_is_name, node)):
        return f'dict({", ".join(f"{step}={_inline(below)}" for step, below in node.items())})'
    return f'{{{", ".join(f"{step!r}: {_inline(below)}" for step, below in node.items())}}}'


def _lines(start: str, node: Any, indent: str = '') -> list[str]:
    """One line, or one for each entry where that would be too long."""
    whole = f'{indent}{start}{_inline(node)}'
    if len(whole) <= WIDTH or not isinstance(node, _Tree) or not all(map(_is_name, node)):
        return [whole]
    lines = [f'{indent}{start}dict(']
    for step, below in node.items():
        *first, last = _lines(f'{step}=', below, f'{indent}    ')
        lines += [*first, f'{last},']
    return [*lines, f'{indent})']


def _trail(place: Place) -> str:
    return ''.join(f'.{step}' if _is_name(step) and step not in RESERVED else f'[{step!r}]' for step in place)


def _is_name(step: str | int) -> bool:
    return isinstance(step, str) and step.isidentifier() and not keyword.iskeyword(step)
