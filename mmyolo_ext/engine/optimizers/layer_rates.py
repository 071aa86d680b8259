"""Rates and decays of single layers, as multiples of the optimizer's.

A level is the place of a backbone's stage in its order from the picture, 0 for the first; L is their number.
"""

import re
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

OPTIONS = ('layer_decay', 'custom_keys')
KEY_OPTIONS = ('lr_mult', 'decay_mult')
BACKBONE = 'backbone.'
# layers.0 of ours, layer1 of a ResNet, stage1 of a CSPDarknet, stages.0 of Swin, stages_0 and blocks.0 of timm
STAGE = re.compile(r'(?:^|\.)\w*?(?:layer|stage|block)s?[._]?(\d+)(?=\.|$)')
MAX_LEVELS = 32  # of a large vision transformer there are 25; many more are the layers of a file of Darknet


class Multiples(NamedTuple):
    """What the optimizer's rate and decay are multiplied by for a parameter, and the rule that says so."""

    lr: float
    decay: float
    where: str


class LayerRates:
    """Multiples for every parameter of a model, from MMEngine's ``paramwise_cfg``.

    Args:
        paramwise_cfg: with these keys, all optional:

            ``custom_keys``: ``{part of a name: dict(lr_mult=..., decay_mult=...)}`` as in MMEngine; of several keys
            that a parameter's name contains the longest counts, of equally long ones the first by the alphabet.
            ``layer_decay``: 0 < d <= 1; the stage of level i in the backbone learns by d ** (L - i) of the rate that
            neck and head have. Both together multiply.

    Raises:
        ValueError: another key, or a number out of range.
    """

    def __init__(self, paramwise_cfg: Mapping | None) -> None:
        cfg = dict(paramwise_cfg or {})
        unknown = [key for key in cfg if key not in OPTIONS]
        if unknown:
            raise ValueError(
                f'paramwise_cfg of YOLOOptimConstructor takes {OPTIONS}, got {unknown}: norms and biases never decay '
                "here; use constructor='DefaultOptimWrapperConstructor' for the other keys of MMEngine"
            )
        self.layer_decay = _number('layer_decay', cfg.get('layer_decay', 1.0))
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f'layer_decay must be greater than 0 and at most 1, got {self.layer_decay:g}')
        self.custom_keys = {key: _custom(key, value) for key, value in dict(cfg.get('custom_keys') or {}).items()}

    def of(self, names: Iterable[str]) -> dict[str, Multiples]:
        """Multiples of each parameter, by its name; all the names of a model, in its order.

        Raises:
            ValueError: a custom key that no name contains, or a backbone whose stages cannot be told by their names.
        """
        names = list(names)
        self._check_keys(names)
        levels = stage_levels(names) if self.layer_decay != 1.0 else {}
        count = max(levels.values(), default=-1) + 1
        return {name: self._one(name, levels.get(name, count), count) for name in names}

    def _one(self, name: str, level: int, count: int) -> Multiples:
        rate = self.layer_decay ** (count - level)
        where = f'backbone, level {level}' if level < count else name.partition('.')[0]
        key = min((key for key in self.custom_keys if key in name), key=lambda k: (-len(k), k), default=None)
        if key is None:
            return Multiples(rate, 1.0, where)
        lr_mult, decay_mult = self.custom_keys[key]
        return Multiples(rate * lr_mult, decay_mult, f'{where} ({key!r})')

    def _check_keys(self, names: list[str]) -> None:
        for key in self.custom_keys:
            if not any(key in name for name in names):
                close = get_close_matches(key, _prefixes(names), n=1)
                advice = f'did you mean {close[0]!r}?' if close else f'the names start with {_starts(names)}'
                raise ValueError(f'paramwise_cfg.custom_keys: no parameter has {key!r} in its name: {advice}')


def stage_levels(names: Iterable[str]) -> dict[str, int]:
    """The level of every parameter of the backbone, by its name.

    Stages are numbered as their names are. What stands before the first is the stem, a level of its own; what stands
    between and after them, such as a last norm, belongs to the stage before it.

    Raises:
        ValueError: there is no backbone, or its stages have no numbers in their names.
    """
    inner = [name for name in names if name.startswith(BACKBONE)]
    found = [STAGE.search(name.removeprefix(BACKBONE)) for name in inner]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        raise ValueError(
            'layer_decay needs a backbone whose stages are numbered in their names (layers.0, layer1, stages.0, ...), '
            f'got {_starts(inner) if inner else "a model without a backbone"}: set rates by custom_keys instead'
        )
    first = min(numbers)
    stem = int(found[0] is None)
    levels, level = {}, 0
    for name, match in zip(inner, found, strict=True):
        level = int(match[1]) - first + stem if match else level
        levels[name] = level
    count = max(levels.values()) + 1
    if count > MAX_LEVELS:
        raise ValueError(
            f'layer_decay would have {count} levels, one for each layer of this backbone; at most {MAX_LEVELS} are '
            'allowed: set rates by custom_keys instead'
        )
    return levels


def _custom(key: str, value: Mapping) -> tuple[float, float]:
    unknown = [option for option in value if option not in KEY_OPTIONS]
    if unknown:
        raise ValueError(f'paramwise_cfg.custom_keys[{key!r}] takes {KEY_OPTIONS}, got {unknown}')
    lr_mult, decay_mult = (_number(f'{option} of {key!r}', value.get(option, 1.0)) for option in KEY_OPTIONS)
    return lr_mult, decay_mult


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f'{name} must be a number of at least 0, got {value!r}')
    return float(value)


def _prefixes(names: Iterable[str]) -> list[str]:
    """``a.b.c`` -> ``a``, ``a.b``, ``a.b.c``, each once."""
    parts = [name.split('.') for name in names]
    return list(dict.fromkeys('.'.join(part[:end]) for part in parts for end in range(1, len(part) + 1)))


def _starts(names: Iterable[str]) -> str:
    return ', '.join(list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in names))[:12])
