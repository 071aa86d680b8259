"""Parameter groups of the recipe: what decays, what does not, and the biases; each at the rates asked for."""

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import NamedTuple

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import Tensor, nn
from torch.optim import Optimizer

from mmyolo_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

ROLES = ('decay', 'no_decay', 'bias')
DECAYED = (nn.modules.conv._ConvNd, nn.Linear)


class Multiples(NamedTuple):
    """What the optimizer's rate and decay are multiplied by for a parameter, and the rule that says so."""

    lr: float
    decay: float
    where: str


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class YOLOOptimConstructor:
    """Builds an optimizer whose groups carry the keys ``role`` and ``lr_mult``, and logs a table of them.

    Role ``decay`` is that of the weights of convolution and linear layers, which keep the optimizer's weight decay;
    ``no_decay`` that of every other parameter but biases (norm weights, scales, embeddings); ``bias`` that of the
    biases, which :class:`~mmyolo_ext.engine.optim.WarmupLinearLR` warms up differently. Parameters that do not
    require a gradient are left out; the others appear exactly once. There is a group for each role at each rate and
    decay that occurs, the fastest first, which is the one whose rate MMEngine logs. The optimizer is PyTorch's fused
    form where there is one, see :func:`build_fused`.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with the optimizer's under ``optimizer``.
        paramwise_cfg: Rates of single layers, see :class:`LayerRates`. ``lr_mult`` multiplies the rate
            of all roles, ``decay_mult`` the decay of those that have one.

    Raises:
        ValueError: ``optimizer`` or its ``lr`` is missing, a key or number of ``paramwise_cfg`` is not allowed, or no
            parameter requires a gradient.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if 'optimizer' not in optim_wrapper_cfg:
            raise ValueError(f'optim_wrapper needs a key "optimizer", got {sorted(optim_wrapper_cfg)}')
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))
        if 'lr' not in self.optimizer_cfg:
            raise ValueError(f'optim_wrapper.optimizer needs a rate "lr", got {sorted(self.optimizer_cfg)}')
        self.rates = LayerRates(paramwise_cfg)

    def __call__(self, model: nn.Module) -> OptimWrapper:
        module = model.module if is_model_wrapper(model) else model
        parameters = dict(module.named_parameters())
        multiples = self.rates.of(parameters)
        groups = self._groups(module, multiples)
        where = {id(parameter): multiples[name].where for name, parameter in parameters.items()}
        frozen = {name: parameter for name, parameter in parameters.items() if not parameter.requires_grad}
        print_log(group_table(groups, where, frozen), logger='current')
        optimizer = build_fused(self.optimizer_cfg, groups)
        return OPTIM_WRAPPERS.build(
            {'type': 'mmyolo_ext.YOLOOptimWrapper', **self.wrapper_cfg, 'optimizer': optimizer}
        )

    def _groups(self, model: nn.Module, multiples: dict[str, Multiples]) -> list[dict]:
        lr, decay = self.optimizer_cfg['lr'], self.optimizer_cfg.get('weight_decay', 0.0)
        members: dict[tuple, list[nn.Parameter]] = {}
        for role, parameters in group_by_role(model).items():
            for name, parameter in parameters.items():
                key = (multiples[name].lr, multiples[name].decay if role == 'decay' else 0.0, role)
                members.setdefault(key, []).append(parameter)
        keys = sorted(members, key=lambda key: (-key[0], ROLES.index(key[2]), -key[1]))
        return [
            {
                'params': members[key],
                'role': key[2],
                'lr_mult': key[0],
                'lr': lr * key[0],
                'weight_decay': decay * key[1],
            }
            for key in keys
        ]


def group_by_role(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Partition the trainable parameters of ``model``, by name, by role, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {role: {} for role in ROLES}
    for role, name, parameter in _roles(model):
        groups[role][name] = parameter
    grouped = [name for parameters in groups.values() for name in parameters]
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped)) and set(grouped) == trainable, 'groups must partition the parameters'
    if not grouped:
        raise ValueError(
            'no parameter requires a gradient: lower frozen_stages, or take names out of frozen_parts of the model'
        )
    return groups


def _roles(model: nn.Module) -> Iterator[tuple[str, str, nn.Parameter]]:
    seen: set[int] = set()
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            name = f'{path}.{own}' if path else own
            if own.endswith('bias'):
                yield 'bias', name, parameter
            elif own == 'weight' and isinstance(module, DECAYED):
                yield 'decay', name, parameter
            else:
                yield 'no_decay', name, parameter


OPTIONS = ('layer_decay', 'custom_keys')
KEY_OPTIONS = ('lr_mult', 'decay_mult')
BACKBONE = 'backbone.'
# layers.0 of ours, layer1 of a ResNet, stage1 of a CSPDarknet, stages.0 of Swin, stages_0 and blocks.0 of timm
STAGE = re.compile(r'(?:^|\.)\w*?(?:layer|stage|block)s?[._]?(\d+)(?=\.|$)')
MAX_LEVELS = 32  # of a large vision transformer there are 25; many more are the layers of a file of Darknet


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


HEADER = ('rate', 'decay', 'role', 'tensors', 'parameters', 'where')


def group_table(groups: Sequence[Mapping], where: Mapping[int, str], frozen: Mapping[str, nn.Parameter]) -> str:
    """A line on all groups of an optimizer and on what is frozen, then one for each group.

    Args:
        groups: of the optimizer, with ``role``; rates are those before any schedule.
        where: for each parameter, by its ``id``, the part of the model it stands in.
        frozen: parameters that are not trained, by name.
    """
    rows = [HEADER, *(_row(group, where) for group in groups)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER) - 1)]
    lines = [
        '  '.join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    trained = _count(parameter for group in groups for parameter in group['params'])
    return '\n'.join([f'Training {trained:,} parameters; {_frozen(frozen)}.', *(f'  {line}' for line in lines)])


def _row(group: Mapping, where: Mapping[int, str]) -> tuple[str, ...]:
    parameters = group['params']
    places = dict.fromkeys(where[id(parameter)] for parameter in parameters)
    rate, decay = f'{group["lr"]:g}', f'{group["weight_decay"]:g}'
    return (rate, decay, group['role'], str(len(parameters)), f'{_count(parameters):,}', ', '.join(places))


def _frozen(frozen: Mapping[str, nn.Parameter]) -> str:
    if not frozen:
        return 'none is frozen'
    parts: Counter = Counter()
    for name, parameter in frozen.items():
        parts[name.partition('.')[0]] += parameter.numel()
    told = ', '.join(f'{count:,} of {part}' for part, count in parts.items())
    return f'{sum(parts.values()):,} are frozen ({told})'


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


IMPLEMENTATIONS = ('fused', 'foreach', 'capturable', 'differentiable')
DEVICES = ('cpu', 'cuda')


def build_fused(optimizer_cfg: Mapping, groups: list[dict]) -> Optimizer:
    """Build an optimizer of PyTorch with ``fused=True`` where its kind and the device of the parameters allow it.

    Parameters differ from those of the other forms in their last bits. A config that says anything about the form
    (``fused``, ``foreach``, ``capturable``, ``differentiable``) is left as it is, and so is an optimizer of others.

    Args:
        optimizer_cfg: ``type`` and the optimizer's arguments.
        groups: of parameters.
    """
    parameters = [parameter for group in groups for parameter in group['params']]
    form = {'fused': True} if _has_fused(optimizer_cfg) and all(map(_can_be_fused, parameters)) else {}
    return OPTIMIZERS.build({**optimizer_cfg, **form}, default_args={'params': groups})


def _has_fused(optimizer_cfg: Mapping) -> bool:
    kind = optimizer_cfg['type']
    kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
    is_theirs = str(getattr(kind, '__module__', '')).startswith('torch.optim')
    says = any(key in optimizer_cfg for key in IMPLEMENTATIONS)
    return is_theirs and not says and 'fused' in inspect.signature(kind).parameters


def _can_be_fused(parameter: Tensor) -> bool:
    return parameter.is_floating_point() and parameter.device.type in DEVICES
