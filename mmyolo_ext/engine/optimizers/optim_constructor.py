"""Parameter groups of the recipe: what decays, what does not, and the biases; each at the rates asked for."""

from collections.abc import Iterator

from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from torch import nn

from mmyolo_ext.engine.optimizers.fused import build_fused
from mmyolo_ext.engine.optimizers.group_table import group_table
from mmyolo_ext.engine.optimizers.layer_rates import LayerRates, Multiples
from mmyolo_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

ROLES = ('decay', 'no_decay', 'bias')
DECAYED = (nn.modules.conv._ConvNd, nn.Linear)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class YOLOOptimConstructor:
    """Builds an optimizer whose groups carry the keys ``role`` and ``lr_mult``, and logs a table of them.

    Role ``decay`` is that of the weights of convolution and linear layers, which keep the optimizer's weight decay;
    ``no_decay`` that of every other parameter but biases (norm weights, scales, embeddings); ``bias`` that of the
    biases, which :class:`~mmyolo_ext.engine.schedulers.WarmupLinearLR` warms up differently. Parameters that do not
    require a gradient are left out; the others appear exactly once. There is a group for each role at each rate and
    decay that occurs, the fastest first, which is the one whose rate MMEngine logs. The optimizer is PyTorch's fused
    form where there is one, see :func:`.fused.build_fused`.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with the optimizer's under ``optimizer``.
        paramwise_cfg: Rates of single layers, see :class:`.layer_rates.LayerRates`. ``lr_mult`` multiplies the rate
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
