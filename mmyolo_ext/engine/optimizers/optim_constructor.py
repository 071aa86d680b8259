"""Parameter groups of the recipe: what decays, what does not, and the biases."""

from collections.abc import Iterator

from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIMIZERS
from torch import nn

from mmyolo_ext.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS

ROLES = ('decay', 'no_decay', 'bias')
DECAYED = (nn.modules.conv._ConvNd, nn.Linear)


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class YOLOOptimConstructor:
    """Builds an optimizer whose groups carry a key ``role``.

    ``decay`` holds the weights of convolution and linear layers and keeps the optimizer's weight decay; ``no_decay``
    holds every other parameter but biases (norm weights, scales, embeddings); ``bias`` holds the biases, which
    :class:`~mmyolo_ext.engine.schedulers.WarmupLinearLR` warms up differently. Parameters that do not require a
    gradient are left out; the others appear exactly once. A role without parameters makes no group.

    Args:
        optim_wrapper_cfg: Config of the wrapper, with the optimizer's under ``optimizer``.
        paramwise_cfg: Must be empty. It is MMEngine's argument, refused here so that it is not silently ignored.
    """

    def __init__(self, optim_wrapper_cfg: dict, paramwise_cfg: dict | None = None) -> None:
        if paramwise_cfg:
            raise ValueError(
                f'YOLOOptimConstructor groups parameters by role and takes no paramwise_cfg, got {paramwise_cfg}: '
                "use constructor='DefaultOptimWrapperConstructor' for it"
            )
        if 'optimizer' not in optim_wrapper_cfg:
            raise ValueError(f'optim_wrapper needs a key "optimizer", got {sorted(optim_wrapper_cfg)}')
        self.wrapper_cfg = dict(optim_wrapper_cfg)
        self.optimizer_cfg = dict(self.wrapper_cfg.pop('optimizer'))

    def __call__(self, model: nn.Module) -> OptimWrapper:
        module = model.module if is_model_wrapper(model) else model
        decay = self.optimizer_cfg.get('weight_decay', 0.0)
        groups = [
            {'params': params, 'role': role, 'weight_decay': decay if role == 'decay' else 0.0}
            for role, params in group_by_role(module).items()
            if params
        ]
        optimizer = OPTIMIZERS.build(self.optimizer_cfg, default_args={'params': groups})
        return OPTIM_WRAPPERS.build(
            {'type': 'mmyolo_ext.YOLOOptimWrapper', **self.wrapper_cfg, 'optimizer': optimizer}
        )


def group_by_role(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Partition the trainable parameters of ``model`` by role, in the order of ``model.named_parameters()``.

    Raises:
        ValueError: If no parameter requires a gradient.
    """
    groups: dict[str, list[nn.Parameter]] = {role: [] for role in ROLES}
    for role, parameter in _roles(model):
        groups[role].append(parameter)
    grouped = [id(parameter) for parameters in groups.values() for parameter in parameters]
    trainable = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    assert len(grouped) == len(set(grouped)) and set(grouped) == trainable, 'groups must partition the parameters'
    if not grouped:
        raise ValueError('no parameter requires a gradient: lower frozen_stages or unfreeze a part of the model')
    return groups


def _roles(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    seen: set[int] = set()
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad or id(parameter) in seen:
                continue
            seen.add(id(parameter))
            if name.endswith('bias'):
                yield 'bias', parameter
            elif name == 'weight' and isinstance(module, DECAYED):
                yield 'decay', parameter
            else:
                yield 'no_decay', parameter
