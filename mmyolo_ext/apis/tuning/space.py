"""What a search may change: the space, a config file of its own.

    space = {
        'optim_wrapper.optimizer.lr': dict(low=1e-3, high=1e-1, log=True),
        'model.bbox_head.loss_cls.loss_weight': dict(factor=4),     # a fourth to four times what the config has
        'train_dataloader...MosaicAffine.scale': dict(low=0.0, high=0.9),
        'model.bbox_head.loss_bbox.mode': ['ciou', 'siou'],         # one of these
    }

=============  ========================================================================================================
``low, high``  a range; of whole numbers if both and the config's own value are whole
``log``        search evenly over orders of magnitude; ``low`` must be above 0
``step``       from ``low`` in these steps
``factor``     instead of ``low`` and ``high``: from 1 / factor to factor times the config's own value, with ``log``
``choices``    a list of values of any kind; a bare list is short for it
``default``    what the config stands for where it does not have the key, which a default of the code's serves
``optional``   leave the key out without a word of error where the config does not have it
=============  ========================================================================================================

How keys are written: :mod:`.keys`.
"""

import math
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config, ConfigDict

from mmyolo_ext.apis.shortcuts import SHORTCUTS
from mmyolo_ext.apis.tuning.keys import NoSuchKeyError, Place, places_of, value_at

RANGE = ('low', 'high', 'log', 'step')
WORDS = (*RANGE, 'factor', 'choices', 'default', 'optional')
DIGITS = 4  # of a value that is tried, so that a config can be read


class Parameter(NamedTuple):
    """One key and what may stand there.

    Attributes:
        key: as the space writes it.
        places: in the config; for a shortcut, which is not there any more, the name alone.
        present: the config's own value.
        low: of a range, else None; ``high`` likewise.
        high: see there.
        log: whether the range is one of orders of magnitude.
        step: between values, or None.
        choices: all values, where it is no range.
    """

    key: str
    places: tuple[Place, ...]
    present: Any
    low: float | int | None = None
    high: float | int | None = None
    log: bool = False
    step: float | int | None = None
    choices: tuple = ()

    @property
    def whole(self) -> bool:
        """Whether values are whole numbers."""
        return all(isinstance(value, int) for value in (self.low, self.high))

    def another(self) -> Any:
        """A value that is not the present one."""
        candidates = self.choices or (self.high, self.low)
        return next(value for value in candidates if value != self.present)

    def rounded(self, value: Any) -> Any:
        """A value as it is tried: of few digits, unless it is the present one."""
        if not isinstance(value, float) or value == self.present or self.choices:
            return value
        return min(max(float(f'{value:.{DIGITS}g}'), self.low), self.high)


def read_space(file: str | Path) -> dict[str, Any]:
    """The entries of a space by their keys, as the file has them.

    Raises:
        ValueError: the file is missing, broken, or without ``space``.
    """
    if not Path(file).is_file():
        raise ValueError(f'there is no space {file}: --space names a file with space = {{KEY: dict(low=.., high=..)}}')
    try:
        entries = Config.fromfile(str(file)).to_dict().get('space')
    except Exception as error:  # the file is code of the user's: whatever it raises, it must be named
        raise ValueError(f'the space {file} cannot be read: {type(error).__name__}: {error}') from error
    if not isinstance(entries, dict) or not entries:
        raise ValueError(f'{file} must hold space = {{KEY: dict(low=.., high=..) or a list}}, got {entries!r}')
    return entries


def fit_space(entries: dict[str, Any], cfg: ConfigDict) -> tuple[dict[str, Parameter], list[str]]:
    """The parameters that a config has, and the keys of optional ones that it has not.

    Raises:
        ValueError: naming the key and what is wrong: no such key, words that mean nothing, a range without values, a
            present value that is not among those allowed, two keys for one place.
    """
    found, left_out = {}, []
    for key, entry in entries.items():
        words = _words(key, entry)
        try:
            found[key] = _parameter(key, words, cfg)
        except NoSuchKeyError as error:
            if not words.get('optional'):
                raise ValueError(
                    f'{error}; if the code has a default for it, say which: default=..; if it may be missing: '
                    'optional=True'
                ) from error
            left_out.append(key)
    taken: dict[Place, str] = {}
    for parameter in found.values():
        for place in parameter.places:
            if place in taken:
                raise ValueError(f'{taken[place]!r} and {parameter.key!r} are the same place: leave one out')
            taken[place] = parameter.key
    if not found:
        raise ValueError(f'the config has none of the keys of the space: {", ".join(left_out)}')
    return found, left_out


def _words(key: str, entry: Any) -> dict:
    if isinstance(entry, (list, tuple)):
        entry = {'choices': entry}
    if not isinstance(entry, dict):
        raise ValueError(f'the space gives {key!r} {entry!r}: it must be dict(low=.., high=..) or a list of choices')
    unknown = [word for word in entry if word not in WORDS]
    if unknown:
        raise ValueError(f'the space gives {key!r} the words {unknown}: allowed are {", ".join(WORDS)}')
    forms = [{'low', 'high'} <= set(entry), 'factor' in entry, 'choices' in entry]
    stray = [word for word in RANGE if word in entry] if not forms[0] else []
    if sum(forms) != 1 or stray:
        raise ValueError(
            f'the space must give {key!r} low and high, or factor, or choices, and one of these alone, got {entry}'
        )
    return entry


def _parameter(key: str, words: dict, cfg: ConfigDict) -> Parameter:
    if key in SHORTCUTS:
        if 'default' not in words:
            raise ValueError(f'{key!r} is a shortcut for several keys: say by default=.. what the config has')
        places, present = [(key,)], words['default']
    else:
        places = places_of(cfg, key, 'default' in words)
        _refuse_tuples(key, places, cfg)
        values = [value_at(cfg, place) for place in places]
        if any(value != values[0] for value in values):
            where = ', '.join('.'.join(map(str, place)) for place in places)
            raise ValueError(f'{key!r} stands in several places with different values {values}: name one of {where}')
        present = words['default'] if values[0] is None and 'default' in words else values[0]
    if 'choices' in words:
        return _choice(key, tuple(places), present, words['choices'])
    return _range(key, tuple(places), present, words)


def _refuse_tuples(key: str, places: list[Place], cfg: ConfigDict) -> None:
    for place in places:
        for length in range(len(place)):
            if isinstance(value_at(cfg, place[:length]), tuple):
                whole = '.'.join(map(str, place[:length]))
                raise ValueError(f'{key!r} lies in a tuple, which cannot be changed in part: give {whole!r} choices')


def _choice(key: str, places: tuple[Place, ...], present: Any, choices: Any) -> Parameter:
    choices = tuple(choices) if isinstance(choices, (list, tuple)) else ()
    if len(choices) < 2 or any(choices.count(choice) > 1 for choice in choices):
        raise ValueError(f'{key!r} needs a list of two or more different choices, got {choices}')
    if present not in choices:
        raise ValueError(f'the choices of {key!r} are {list(choices)}, and the config has {present!r}: add that')
    return Parameter(key, places, present, choices=choices)


def _range(key: str, places: tuple[Place, ...], present: Any, words: dict) -> Parameter:
    if not isinstance(present, (int, float)) or isinstance(present, bool):
        raise ValueError(f'{key!r} is {present!r} in the config, which has no range: give it choices')
    if 'factor' in words:
        factor = _number(key, 'factor', words['factor'])
        if factor <= 1 or present <= 0:
            raise ValueError(
                f'{key!r}: factor must be above 1 and the value of the config above 0, got {factor:g} and '
                f'{present!r}; low and high give a range otherwise'
            )
        low, high = present / factor, present * factor
        if isinstance(present, int):
            low, high = max(math.ceil(low), 1), math.floor(high)
        words = {'low': low, 'high': high, 'log': True}
    low, high = _number(key, 'low', words['low']), _number(key, 'high', words['high'])
    step, log = words.get('step'), bool(words.get('log'))
    step = None if step is None else _number(key, 'step', step)
    if isinstance(present, float) or not all(isinstance(value, int) for value in (low, high)):
        low, high = float(low), float(high)
    if not low < high or log and low <= 0 or step is not None and (log or not 0 < step <= high - low):
        raise ValueError(
            f'{key!r}: low must be below high, and above 0 with log; step goes without log, from above 0 to '
            f'high - low; got low={low}, high={high}, log={log}, step={step}'
        )
    if isinstance(low, int) and isinstance(step, float):
        raise ValueError(f'{key!r} takes whole numbers, got step={step}')
    if not low <= present <= high:
        raise ValueError(f'{key!r} is {present} in the config, outside of {low} to {high}: the first trial is the '
                         'config as it stands, so widen the range')  # fmt: skip
    return Parameter(key, places, present, low, high, log, step)


def _number(key: str, word: str, value: Any) -> float | int:
    if isinstance(value, str):  # YAML reads 1e-4 as text
        with suppress(ValueError):
            value = float(value)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not math.isfinite(value):
        raise ValueError(f'{key!r}: {word} must be a number, got {value!r}')
    return value
