"""The search space: config keys and the values each may take.

    space = {
        'optim_wrapper.optimizer.lr': dict(low=1e-3, high=1e-1, log=True),
        'model.bbox_head.loss_cls.loss_weight': dict(factor=4),     # a quarter to four times the config's value
        'train_dataloader...MosaicAffine.scale': dict(low=0.0, high=0.9),
        'model.bbox_head.loss_bbox.mode': ['ciou', 'siou'],         # one of these
    }

=============  ========================================================================================================
``low, high``  a range; integers only if both and the config's own value are integers
``log``        sample uniformly in the logarithm; ``low`` must be above 0
``step``       only ``low``, ``low + step``, ...
``factor``     instead of ``low`` and ``high``: from 1 / factor to factor times the config's value, with ``log``
``choices``    a list of values of any type; a bare list is short for it
``default``    the value that the code uses where the config does not contain the key
``optional``   ignore the key where the config does not contain it
=============  ========================================================================================================

A key is dotted, as in ``--cfg-options``. Three dots skip any number of levels:
``train_dataloader...MosaicAffine.scale`` is the ``scale`` of every ``MosaicAffine`` in the training dataloader.
"""

import ast
import math
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import kind
from mmyolo_ext.apis.shortcuts import SHORTCUTS

if TYPE_CHECKING:
    from optuna import Trial
    from optuna.distributions import BaseDistribution

RANGE = ('low', 'high', 'log', 'step')
OPTIONS = (*RANGE, 'factor', 'choices', 'default', 'optional')
PRIMITIVES = (str, int, float, bool, type(None))  # what Optuna's storages keep as it is


class MissingKeyError(ValueError):
    """A key of the space that the config does not contain."""


@dataclass(frozen=True)
class Parameter:
    """A key of the space, resolved against a config.

    Attributes:
        key: as the space writes it.
        options: the dotted keys of ``--cfg-options`` that set it.
        current: the value in the config.
        distribution: what Optuna samples from; choices that are not primitive are their ``repr``.
    """

    key: str
    options: tuple[str, ...]
    current: Any
    distribution: 'BaseDistribution'

    @property
    def choice_text(self) -> str:
        """What may be chosen, as text."""
        choices = getattr(self.distribution, 'choices', None)
        if choices:
            return f'one of {", ".join(str(choice) for choice in choices)}'
        step = f' in steps of {self.distribution.step:g}' if self.distribution.step not in (None, 1) else ''
        scale = ', logarithmic' if self.distribution.log else ''
        return f'{self.distribution.low:g} to {self.distribution.high:g}{step}{scale}'

    def suggest(self, trial: 'Trial') -> Any:
        """Sample a value for a trial."""
        return self.decode(trial._suggest(self.key, self.distribution))

    def decode(self, stored: Any) -> Any:
        """Invert :func:`encode`."""
        if isinstance(stored, str) and not isinstance(self.current, str):
            return ast.literal_eval(stored)
        return stored


def encode(value: Any) -> Any:
    """Return ``value`` as Optuna stores it."""
    return value if isinstance(value, PRIMITIVES) else repr(value)


def read_space(file: str | Path) -> dict[str, Any]:
    """Read the dict ``space`` from a config file.

    Raises:
        ValueError: The file is missing, broken, or has no ``space``.
    """
    if not Path(file).is_file():
        raise ValueError(f'there is no space {file}: --space names a file with space = {{KEY: dict(low=.., high=..)}}')
    try:
        entries = Config.fromfile(str(file)).to_dict().get('space')
    except Exception as error:  # the file is code of the user's, which may raise anything
        raise ValueError(f'the space {file} cannot be read: {type(error).__name__}: {error}') from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f'{file} must define space = {{KEY: dict(low=.., high=..) or a list}}, got {entries!r}')
    return entries


def resolve_space(entries: dict[str, Any], cfg: Config) -> tuple[list[Parameter], list[str]]:
    """Resolve the entries of a space against a config.

    Returns:
        tuple: The parameters, and the optional keys that the config does not contain.

    Raises:
        ValueError: An unknown key, a malformed entry, a current value outside its range, or two keys for one place.
    """
    parameters, missing = [], []
    for key, entry in entries.items():
        entry = _check_entry(key, entry)
        try:
            parameters.append(_parameter(key, entry, cfg))
        except MissingKeyError as error:
            if not entry.get('optional'):
                raise ValueError(f'{error}; give default=.. if the code has one, or optional=True') from error
            missing.append(key)
    owners: dict[str, str] = {}
    for parameter in parameters:
        for option in parameter.options:
            if option in owners:
                raise ValueError(f'{owners[option]!r} and {parameter.key!r} both set {option}: remove one')
            owners[option] = parameter.key
    if not parameters:
        raise ValueError(f'the config contains none of the keys of the space: {", ".join(missing)}')
    return parameters, missing


def _check_entry(key: str, entry: Any) -> dict:
    if isinstance(entry, (list, tuple)):
        entry = {'choices': entry}
    if not isinstance(entry, dict):
        raise ValueError(f'the space gives {key!r} {entry!r}: it must be dict(low=.., high=..) or a list of choices')
    unknown = [name for name in entry if name not in OPTIONS]
    if unknown:
        raise ValueError(f'the space gives {key!r} {unknown}: allowed are {", ".join(OPTIONS)}')
    is_range = {'low', 'high'} <= set(entry)
    if is_range + ('factor' in entry) + ('choices' in entry) != 1 or not is_range and set(RANGE) & set(entry):
        raise ValueError(f'the space must give {key!r} either low and high, or factor, or choices, got {entry}')
    return entry


def _parameter(key: str, entry: dict, cfg: Config) -> Parameter:
    if key in SHORTCUTS:
        if 'default' not in entry:
            raise ValueError(f'{key!r} is a shortcut for several keys: give the current value as default=..')
        options, current = [key], entry['default']
    else:
        places = list(dict.fromkeys(find_places(cfg._cfg_dict, key, 'default' in entry)))
        options = ['.'.join(map(str, place)) for place in places]
        values = [value_at(cfg._cfg_dict, place) for place in places]
        if any(value != values[0] for value in values):
            raise ValueError(f'{key!r} has different values {values} in {", ".join(options)}: name one of them')
        current = entry['default'] if values[0] is None and 'default' in entry else values[0]
        for place in places:
            if any(isinstance(value_at(cfg._cfg_dict, place[:end]), tuple) for end in range(len(place))):
                raise ValueError(f'{key!r} is part of a tuple, which cannot be set in part: give the tuple choices')
    return Parameter(key, tuple(options), current, _distribution(key, entry, current))


def _distribution(key: str, entry: dict, current: Any) -> 'BaseDistribution':
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if 'choices' in entry:
        choices = list(entry['choices'])
        if len(choices) < 2 or current not in choices:
            raise ValueError(f'{key!r} needs two or more choices, one of them the current {current!r}, got {choices}')
        return CategoricalDistribution([encode(choice) for choice in choices])
    if not isinstance(current, (int, float)) or isinstance(current, bool):
        raise ValueError(f'{key!r} is {current!r} in the config, which is no number: give it choices')
    try:
        # YAML reads 1e-4 as text
        entry = {k: float(value) if isinstance(value, str) else value for k, value in entry.items() if k != 'default'}
        if 'factor' in entry:
            low, high = current / entry['factor'], current * entry['factor']
            if isinstance(current, int):
                low, high = max(math.ceil(low), 1), math.floor(high)
            entry = {'low': low, 'high': high, 'log': True}
        low, high, log, step = (entry.get(name) for name in RANGE)
        if not -math.inf < low <= current <= high < math.inf or low == high:
            raise ValueError(f'the range must contain the current {current}, got {low} to {high}')
        if all(isinstance(value, int) for value in (low, high, current)):
            return IntDistribution(low, high, log=bool(log), step=step or 1)
        return FloatDistribution(float(low), float(high), log=bool(log), step=step)
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise ValueError(f'{key!r}: {error}') from error


def find_places(cfg: Any, key: str, may_be_new: bool = False) -> Iterator[tuple[str | int, ...]]:
    """Find where a key of a space stands in a config, as paths of names and list indices.

    Args:
        cfg: A config, or any part of one.
        key: See the module's description.
        may_be_new: Whether the last name may be missing from an existing dict.

    Raises:
        MissingKeyError: The config does not contain the key.
    """
    first, *below = key.split('...')
    places = [_descend(cfg, first.split('.'), key, may_be_new and not below)] if first or not below else [()]
    for number, part in enumerate(below, 1):
        name, *rest = part.split('.')
        holders = [(*place, *found) for place in places for found in _search(value_at(cfg, place), name)]
        if not holders:
            raise MissingKeyError(f'the config has no key {key!r}: there is no {name} in {first or "it"}')
        new = may_be_new and number == len(below)
        places = [(*place, *_descend(value_at(cfg, place), rest, key, new)) for place in holders]
    yield from places


def value_at(cfg: Any, place: tuple[str | int, ...]) -> Any:
    """Return the value at a path; None for a last name that is missing."""
    for step in place:
        cfg = cfg.get(step) if isinstance(cfg, dict) else cfg[step]
    return cfg


def _descend(node: Any, names: list[str], key: str, may_be_new: bool) -> tuple[str | int, ...]:
    place: tuple[str | int, ...] = ()
    for number, name in enumerate(names):
        if isinstance(node, (list, tuple)) and name.isdigit() and int(name) < len(node):
            place += (int(name),)
        elif isinstance(node, dict) and (name in node or may_be_new and number == len(names) - 1):
            place += (name,)
        else:
            there = list(map(str, node)) if isinstance(node, dict) else repr(node)
            close = get_close_matches(name, there, n=1) if isinstance(node, dict) else []
            hint = f'did you mean {close[0]!r}?' if close else f'{".".join(map(str, place)) or "it"} has {there}'
            raise MissingKeyError(f'the config has no key {key!r}: {hint}')
        node = value_at(node, place[-1:])
    return place


def _search(node: Any, name: str, place: tuple = ()) -> Iterator[tuple[str | int, ...]]:
    """Yield the paths of dicts of type ``name`` and of values under the key ``name``, outer ones first."""
    if isinstance(node, dict):
        if kind(node) == name:
            yield place
        if name in node:
            yield (*place, name)
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, (list, tuple)) else ()
    for step, value in items:
        yield from _search(value, name, (*place, step))
