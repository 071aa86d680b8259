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
        ValueError: If the optimizer has no ``lr``, a key or number of ``paramwise_cfg`` is not allowed, or
            no parameter requires a gradient.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer', {}))
        if 'lr' not in self.optimizer_cfg:
            raise ValueError(f'optim_wrapper needs optimizer=dict(type=..., lr=...), got {optim_wrapper_cfg}')
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
        cfg = {'type': 'mmyolo_ext.YOLOOptimWrapper', **self.wrapper_cfg, 'optimizer': self._build_optimizer(groups)}
        return OPTIM_WRAPPERS.build(cfg)

    def _build_optimizer(self, groups: list[dict]) -> Optimizer:
        cfg = dict(self.optimizer_cfg)
        kind = OPTIMIZERS.get(cfg['type']) if isinstance(cfg['type'], str) else cfg['type']
        if (
            kind.__module__.startswith('torch.optim')
            and 'fused' in inspect.signature(kind).parameters
            and not any(key in cfg for key in IMPLEMENTATIONS)
            and all(p.is_floating_point() and p.device.type in ('cpu', 'cuda') for g in groups for p in g['params'])
        ):
            cfg['fused'] = True
        return OPTIMIZERS.build(cfg, default_args={'params': groups})


def group_by_role(model: nn.Module) -> dict[str, dict[str, nn.Parameter]]:
    """Partition the trainable parameters of a model by role; each part maps names to parameters.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    groups: dict[str, dict[str, nn.Parameter]] = {role: {} for role in ROLES}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            path, _, own = name.rpartition('.')
            decayed = own == 'weight' and isinstance(model.get_submodule(path), DECAYED)
            role = 'bias' if own.endswith('bias') else 'decay' if decayed else 'no_decay'
            groups[role][name] = parameter
    if not any(groups.values()):
        raise ValueError('no parameter requires a gradient: lower frozen_stages, or shorten frozen_parts of the model')
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
    layer_decay, custom_keys = cfg.pop('layer_decay', 1.0), cfg.pop('custom_keys', None) or {}
    if cfg:
        raise ValueError(
            f"paramwise_cfg takes 'layer_decay' and 'custom_keys', got {sorted(cfg)}: norms and biases never decay "
            "here; use constructor='DefaultOptimWrapperConstructor' for the other keys of MMEngine"
        )
    if not 0 < layer_decay <= 1:
        raise ValueError(f'layer_decay must be greater than 0 and at most 1, got {layer_decay:g}')
    names = [name for name, _ in model.named_parameters()]
    for key, options in custom_keys.items():
        _check_custom_key(key, options, names)
    levels = stage_levels(names) if layer_decay != 1.0 else {}
    count = max(levels.values(), default=-1) + 1
    multiples = {}
    for name in names:
        level = levels.get(name, count)
        rate, decay = layer_decay ** (count - level), 1.0
        place = f'backbone, level {level}' if level < count else name.partition('.')[0]
        key = min((key for key in custom_keys if key in name), key=lambda k: (-len(k), k), default=None)
        if key is not None:
            rate, decay = rate * custom_keys[key].get('lr_mult', 1.0), custom_keys[key].get('decay_mult', 1.0)
            place = f'{place} ({key!r})'
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
    numbers = {int(match[1]) for match in found if match}
    if not 0 < len(numbers) < MAX_LEVELS:
        raise ValueError(
            f'layer_decay needs 1 to {MAX_LEVELS - 1} stages, numbered in the names of the backbone (layers.0, '
            f'layer1, ...), got {len(numbers)} in {_prefixes(inner) or "no backbone"}: set rates by custom_keys'
        )
    levels, level = {}, 0
    for name, match in zip(inner, found, strict=True):
        level = int(match[1]) - min(numbers) + (found[0] is None) if match else level
        levels[name] = level
    return levels


def _check_custom_key(key: str, options: Mapping, names: Sequence[str]) -> None:
    wrong = [name for name, value in options.items() if name not in KEY_OPTIONS or not _is_multiple(value)]
    if wrong:
        raise ValueError(
            f'paramwise_cfg.custom_keys[{key!r}] takes {KEY_OPTIONS}, each a number of at least 0, got {dict(options)}'
        )
    if not any(key in name for name in names):
        parts = [name.split('.') for name in names]
        starts = dict.fromkeys('.'.join(part[:end]) for part in parts for end in range(1, len(part) + 1))
        close = get_close_matches(key, starts, n=1)
        advice = f'did you mean {close[0]!r}?' if close else f'the names start with {_prefixes(names)}'
        raise ValueError(f'paramwise_cfg.custom_keys: no parameter has {key!r} in its name: {advice}')


def _is_multiple(value: object) -> bool:
    return isinstance(value, (int, float)) and value >= 0


def _prefixes(names: Iterable[str]) -> str:
    return ', '.join(list(dict.fromkeys('.'.join(name.split('.')[:2]) for name in names))[:12])


def _table(groups: Sequence[Mapping], places: Sequence[str], model: nn.Module) -> str:
    """Return a line about all parameters of a model, then a table with a row for each group."""
    trained, frozen = 0, Counter()
    for name, parameter in model.named_parameters():
        trained += parameter.numel() * parameter.requires_grad
        frozen[name.partition('.')[0]] += parameter.numel() * (not parameter.requires_grad)
    parts = ', '.join(f'{count:,} of {part}' for part, count in frozen.items() if count)
    total = f'{frozen.total():,} are frozen ({parts})' if parts else 'none is frozen'
    row = '  {:>10}  {:>10}  {:>8}  {:>7}  {:>11}  {}'.format
    titles = ('rate', 'decay', 'role', 'tensors', 'parameters', 'where')
    lines = [f'Training {trained:,} parameters; {total}.', row(*titles)]
    for group, place in zip(groups, places, strict=True):
        count = sum(parameter.numel() for parameter in group['params'])
        rates = f'{group["lr"]:g}', f'{group["weight_decay"]:g}'
        lines.append(row(*rates, group['role'], len(group['params']), f'{count:,}', place))
    return '\n'.join(lines)
