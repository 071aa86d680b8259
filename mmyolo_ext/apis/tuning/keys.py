"""Keys of a config: how a space names them, where they stand, and what stands there.

``optim_wrapper.optimizer.lr`` goes from name to name, and ``betas.0`` into a list, as ``--cfg-options`` does.
Three dots stand for whatever lies between: ``train_dataloader...MosaicAffine.scale`` is the ``scale`` of every
``MosaicAffine`` anywhere in ``train_dataloader``, however its data sets are wrapped; the word after the dots is the
name of a type or of a key.
"""

from collections.abc import Iterator
from difflib import get_close_matches
from typing import Any

from mmyolo_ext.apis.config_nodes import kind

Place = tuple[str | int, ...]
GAP = '...'


class NoSuchKeyError(ValueError):
    """A key that the config does not have."""


def places_of(cfg: dict, key: str, may_be_new: bool = False) -> list[Place]:
    """Where ``key`` stands in ``cfg``: one place, or several if it has three dots.

    Args:
        cfg: a config, or any part of one.
        key: see above.
        may_be_new: the last name may be missing in a dict that is there.

    Raises:
        NoSuchKeyError: nothing stands there; naming where the trail ends and what is there.
        ValueError: ``key`` is not well formed.
    """
    first, *below = key.split(GAP)
    parts = below if below and not first else [first, *below]
    if not all(name for part in parts for name in part.split('.')):
        raise ValueError(f'{key!r} is no key: names are joined by one dot, and three stand for whatever lies between')
    trunk = _walk(cfg, first.split('.'), may_be_new and not below, key) if first else ()
    trails = [trunk]
    for number, part in enumerate(below, 1):
        word, *rest = part.split('.')
        holders = [(*trail, *found) for trail in trails for found in _find(value_at(cfg, trail), word)]
        if not holders:
            raise NoSuchKeyError(f'the config has no key {key!r}: there is no {word} in {_where(trails[0])}')
        new = may_be_new and number == len(below)
        trails = [
            (*holder, *_walk(value_at(cfg, holder), rest, new, key, _name(holder))) for holder in holders if rest
        ] or holders
    return list(dict.fromkeys(trails))


def value_at(cfg: Any, place: Place) -> Any:
    """What stands there; None for a key that is not there yet."""
    for step in place:
        cfg = cfg.get(step) if isinstance(cfg, dict) else cfg[step]
    return cfg


def _walk(node: Any, names: list[str], may_be_new: bool, key: str, start: str = '') -> Place:
    place: Place = ()
    for number, name in enumerate(names):
        here = '.'.join([start, *map(str, place)] if start else map(str, place))
        if isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            step = int(name)
        elif isinstance(node, dict) and (name in node or may_be_new and number == len(names) - 1):
            step = name
        else:
            raise NoSuchKeyError(f'the config has no key {key!r}: {_what_is_there(node, name, here)}')
        place += (step,)
        node = value_at(node, (step,))
    return place


def _find(node: Any, word: str, place: Place = ()) -> Iterator[Place]:
    """The places of dicts of the type ``word``, and of values under the key ``word``, outer ones first."""
    if isinstance(node, dict):
        if kind(node) == word:
            yield place
        if word in node:
            yield (*place, word)
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for step, value in items:
        yield from _find(value, word, (*place, step))


def _what_is_there(node: Any, name: str, here: str) -> str:
    where = f'in {here}' if here else 'at its top'
    if isinstance(node, dict):
        close = get_close_matches(name, map(str, node), n=1)
        meant = f'did you mean {close[0]!r}? ' if close else ''
        return f'{meant}{where} there are {", ".join(map(str, node))}'
    if isinstance(node, (list, tuple)):
        return f'{where} there is a list of {len(node)}, which {name!r} does not count in'
    return f'{where} there is {node!r}, which holds nothing'


def _where(place: Place) -> str:
    return _name(place) or 'it'


def _name(place: Place) -> str:
    return '.'.join(map(str, place))
