"""Parameter groups of the recipe by role (weights, norms, biases), with learning rates of single layers."""

import inspect
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import nn
from torch.optim import Optimizer

from mmyolo_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

ROLES = ('decay', 'no_decay', 'bias')
DECAYED = (nn.modules.conv._ConvNd, nn.Linear)
IMPLEMENTATIONS = ('fused', 'foreach', 'capturable', 'differentiable')
KEY_OPTIONS = ('lr_mult', 'decay_mult')
BACKBONE = 'backbone.'
# layers.0 of ours, layer1 of a ResNet, stage1 of a CSPDarknet, stages.0 of Swin, stages_0 and blocks.0 of timm
STAGE = re.compile(r'(?:^|\.)\w*?(?:layer|stage|block)s?[._]?(\d+)(?=\.|$)')
MAX_LEVELS = 32  # a large vision transformer has 25; many more are the layers of a Darknet .cfg file


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class YOLOOptimConstructor:
    """Build an optimizer whose parameter groups have the keys ``role`` and ``lr_mult``, and log a table of them.

    Role ``decay``: weights of convolution and linear layers, which have the weight decay of the optimizer. Role
    ``bias``: biases, which :class:`~mmyolo_ext.engine.optim.WarmupLinearLR` warms up differently. Role ``no_decay``:
    all others (norm weights, scales, embeddings). Parameters that do not require a gradient are left out. There is one
    group for each role, rate and decay; the first has the highest rate, which MMEngine logs. Optimizers of PyTorch are
    built with ``fused=True`` where possible, unless the config sets ``fused``, ``foreach``, ``capturable`` or
    ``differentiable``; the last bits of parameters depend on it.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with the optimizer's under ``optimizer``.
        paramwise_cfg: Optional keys, see :func:`layer_multiples`. ``lr_mult`` multiplies the rate of all roles,
            ``decay_mult`` the decay of role ``decay``.

    Raises:
        ValueError: If ``optimizer`` or its ``lr`` is missing, a key or number of ``paramwise_cfg`` is not allowed, or
            no parameter requires a gradient.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if 'optimizer' not in optim_wrapper_cfg:
            raise ValueError(f'optim_wrapper needs a key "optimizer", got {sorted(optim_wrapper_cfg)}')
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))
        if 'lr' not in self.optimizer_cfg:
            raise ValueError(f'optim_wrapper.optimizer needs a rate "lr", got {sorted(self.optimizer_cfg)}')
        self.paramwise_cfg = paramwise_cfg

    def __call__(self, model: nn.Module) -> OptimWrapper:
        model = model.module if is_model_wrapper(model) else model
        multiples = layer_multiples(model, self.paramwise_cfg)
        lr, decay = self.optimizer_cfg['lr'], self.optimizer_cfg.get('weight_decay', 0.0)
        members: dict[tuple, dict[str, nn.Parameter]] = {}
        for role, parameters in group_by_role(model).items():
            for name, parameter in parameters.items():
                lr_mult, decay_mult, _ = multiples[name]
                key = (lr_mult, decay_mult if role == 'decay' else 0.0, role)
                members.setdefault(key, {})[name] = parameter
        groups, places = [], []
        for key in sorted(members, key=lambda key: (-key[0], ROLES.index(key[2]), -key[1])):
            lr_mult, decay_mult, role = key
            rates = {'lr_mult': lr_mult, 'lr': lr * lr_mult, 'weight_decay': decay * decay_mult}
            groups.append({'params': list(members[key].values()), 'role': role, **rates})
            places.append(', '.join(dict.fromkeys(multiples[name][2] for name in members[key])))
        print_log(_table(groups, places, model), logger='current')
        optimizer = self._build_optimizer(groups)
        return OPTIM_WRAPPERS.build(
            {'type': 'mmyolo_ext.YOLOOptimWrapper', **self.wrapper_cfg, 'optimizer': optimizer}
        )

    def _build_optimizer(self, groups: list[dict]) -> Optimizer:
        kind = self.optimizer_cfg['type']
        kind = OPTIMIZERS.get(kind) if isinstance(kind, str) else kind
        fused = (
            str(getattr(kind, '__module__', '')).startswith('torch.optim')
            and 'fused' in inspect.signature(kind).parameters
            and not any(key in self.optimizer_cfg for key in IMPLEMENTATIONS)
            and all(p.is_floating_point() and p.device.type in ('cpu', 'cuda') for g in groups for p in g['params'])
        )
        form = {'fused': True} if fused else {}
        return OPTIMIZERS.build({**self.optimizer_cfg, **form}, default_args={'params': groups})


def group_by_role(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Partition the trainable parameters of a model by role; each part maps names to parameters.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {role: {} for role in ROLES}
    seen: set[int] = set()
    for path, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            decayed = own == 'weight' and isinstance(module, DECAYED)
            role = 'bias' if own.endswith('bias') else 'decay' if decayed else 'no_decay'
            groups[role][f'{path}.{own}' if path else own] = parameter
    if not seen:
        raise ValueError(
            'no parameter requires a gradient: lower frozen_stages, or remove names from frozen_parts of the model'
        )
    return groups


def layer_multiples(model: nn.Module, paramwise_cfg: Mapping | None) -> dict[str, tuple[float, float, str]]:
    """Return the multiples of learning rate and weight decay of every parameter, and where it is, by its name.

    Args:
        model: Not wrapped.
        paramwise_cfg: With these keys, all optional:

            ``custom_keys``: ``{part of a name: dict(lr_mult=..., decay_mult=...)}`` as in MMEngine; of several keys
            that a parameter's name contains, the longest applies, of equally long ones the first by the alphabet.
            ``layer_decay``: 0 < d <= 1; stage i of L stages of the backbone, counted from the image, has d ** (L - i)
            of the rate of neck and head. Both together multiply.

    Raises:
        ValueError: If a key or number is not allowed, no name contains a custom key, or the stages of the backbone
            are not numbered.
    """
    cfg = dict(paramwise_cfg or {})
    unknown = sorted(cfg.keys() - {'layer_decay', 'custom_keys'})
    if unknown:
        raise ValueError(
            f"paramwise_cfg of YOLOOptimConstructor takes ('layer_decay', 'custom_keys'), got {unknown}: norms and "
            "biases never decay here; use constructor='DefaultOptimWrapperConstructor' for the other keys of MMEngine"
        )
    layer_decay = _number('layer_decay', cfg.get('layer_decay', 1.0))
    if not 0 < layer_decay <= 1:
        raise ValueError(f'layer_decay must be greater than 0 and at most 1, got {layer_decay:g}')
    names = [name for name, _ in model.named_parameters()]
    keys = {key: _custom_key(key, value, names) for key, value in dict(cfg.get('custom_keys') or {}).items()}
    levels = stage_levels(names) if layer_decay != 1.0 else {}
    count = max(levels.values(), default=-1) + 1
    multiples = {}
    for name in names:
        level = levels.get(name, count)
        rate, decay = layer_decay ** (count - level), 1.0
        place = f'backbone, level {level}' if level < count else name.partition('.')[0]
        key = min((key for key in keys if key in name), key=lambda k: (-len(k), k), default=None)
        if key is not None:
            rate, decay, place = rate * keys[key][0], keys[key][1], f'{place} ({key!r})'
        multiples[name] = (rate, decay, place)
    return multiples


def stage_levels(names: Iterable[str]) -> dict[str, int]:
    """Return the level of every parameter of the backbone, by its name.

    Stages are numbered as in their names. Layers before the first are the stem, a level of its own; layers between and
    after stages, such as a last norm, belong to the stage before them.

    Raises:
        ValueError: If there is no backbone, or its stages have no numbers in their names.
    """
    inner = [name for name in names if name.startswith(BACKBONE)]
    found = [STAGE.search(name.removeprefix(BACKBONE)) for name in inner]
    numbers = [int(match[1]) for match in found if match]
    if not numbers:
        raise ValueError(
            'layer_decay needs a backbone whose stages are numbered in their names (layers.0, layer1, stages.0, ...), '
            f'got {_prefixes(inner) if inner else "a model without a backbone"}: set rates by custom_keys instead'
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


def _custom_key(key: str, value: Mapping, names: Sequence[str]) -> tuple[float, float]:
    unknown = [option for option in value if option not in KEY_OPTIONS]
    if unknown:
        raise ValueError(f'paramwise_cfg.custom_keys[{key!r}] takes {KEY_OPTIONS}, got {unknown}')
    if not any(key in name for name in names):
        parts = [name.split('.') for name in names]
        starts = dict.fromkeys('.'.join(part[:end]) for part in parts for end in range(1, len(part) + 1))
        close = get_close_matches(key, starts, n=1)
        advice = f'did you mean {close[0]!r}?' if close else f'the names start with {_prefixes(names)}'
        raise ValueError(f'paramwise_cfg.custom_keys: no parameter has {key!r} in its name: {advice}')
    lr_mult, decay_mult = (_number(f'{option} of {key!r}', value.get(option, 1.0)) for option in KEY_OPTIONS)
    return lr_mult, decay_mult


def _number(name: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f'{name} must be a number of at least 0, got {value!r}')
    return float(value)


def _prefixes(names: Iterable[str]) -> str:
    return ', '.join(list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in names))[:12])


def _table(groups: Sequence[Mapping], places: Sequence[str], model: nn.Module) -> str:
    """Return a line about all parameters of a model, then a table with a row for each group."""
    rows = [('rate', 'decay', 'role', 'tensors', 'parameters', 'where')]
    for group, place in zip(groups, places, strict=True):
        rate, decay, tensors = f'{group["lr"]:g}', f'{group["weight_decay"]:g}', group['params']
        rows.append((rate, decay, group['role'], str(len(tensors)), f'{_count(tensors):,}', place))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)][:-1]
    lines = ['  '.join([*map(str.rjust, row, widths), row[-1]]) for row in rows]
    trained = sum(_count(group['params']) for group in groups)
    frozen: Counter[str] = Counter()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            frozen[name.partition('.')[0]] += parameter.numel()
    parts = ', '.join(f'{count:,} of {part}' for part, count in frozen.items())
    total = f'{frozen.total():,} are frozen ({parts})' if frozen else 'none is frozen'
    return '\n'.join([f'Training {trained:,} parameters; {total}.', *(f'  {line}' for line in lines)])


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
