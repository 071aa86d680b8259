"""One kernel for the step of an optimizer, where PyTorch has one."""

import inspect
from collections.abc import Mapping

from mmengine.registry import OPTIMIZERS
from torch import Tensor
from torch.optim import Optimizer

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
