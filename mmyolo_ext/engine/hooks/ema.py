"""EMA of the weights, updated once per optimizer step."""

import math

import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.dist import all_reduce_params, is_distributed
from mmengine.hooks import EMAHook
from mmengine.runner import Runner
from torch import Tensor, nn

from mmyolo_ext.registry import HOOKS, MODELS


@HOOKS.register_module()
class StepEMAHook(EMAHook):
    """MMEngine's ``EMAHook``, counting optimizer steps instead of iterations.

    With the defaults, step n gives ema <- d ema + (1 - d) model with d = 0.9999 (1 - exp(-n / 2000)), norm statistics
    included. The first step copies the model, as mmdet's EMA does, where the formula has d < 0.0005.

    Norm statistics differ between ranks, which have seen different images. At the end of an epoch those of the EMA are
    averaged over ranks, so that every rank validates, and rank 0 saves, the same model.

    Args:
        ema_type: Type of the EMA model.
        momentum: 1 - d for large n.
        gamma: Number of steps over which d rises.
        update_buffers: Whether buffers are averaged as well, or copied.
        **kwargs: As MMEngine's ``EMAHook``.

    Attributes:
        swapped: Whether the model has the weights of the EMA, as during a validation, and the EMA those of the model.
    """

    swapped = False

    def __init__(
        self,
        ema_type: str = 'mmyolo_ext.ForeachEMA',
        momentum: float = 1e-4,
        gamma: int = 2000,
        update_buffers: bool = True,
        **kwargs,
    ) -> None:
        super().__init__(ema_type, momentum=momentum, gamma=gamma, update_buffers=update_buffers, **kwargs)

    def before_train_epoch(self, runner: Runner) -> None:
        super().before_train_epoch(runner)
        if isinstance(self.ema_model, ForeachEMA):
            self.ema_model.find_tensors()

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        guard = getattr(runner, 'step_guard', None)
        if runner.optim_wrapper.should_update() and not (guard is not None and guard.skipped):
            super().after_train_iter(runner, *args, **kwargs)

    def _swap_ema_parameters(self) -> None:
        super()._swap_ema_parameters()
        self.swapped = not self.swapped

    def after_train_epoch(self, runner: Runner) -> None:
        if is_distributed():
            buffers = [buffer for buffer in self.ema_model.module.buffers() if buffer.is_floating_point()]
            all_reduce_params(buffers, op='mean')


@MODELS.register_module()
class ForeachEMA(ExpMomentumEMA):
    """mmdet's ``ExpMomentumEMA`` with one call for all tensors instead of one for each; checkpoints are compatible.

    Update n moves the EMA by w = (1 - momentum) exp(-(1 + n) / gamma) + momentum of its distance to the model; the
    first update copies. Results are bit-identical on a CPU; on a GPU the last bit may differ.

    Args:
        **kwargs: As mmdet's: ``model``, ``momentum``, ``gamma``, ``interval``, ``device``, ``update_buffers``.
    """

    _pairs: tuple[nn.Module, list[Tensor], list[Tensor]] | None = None

    def find_tensors(self) -> None:
        """Discard the cached lists of tensors; finding hundreds by name takes longer than updating them."""
        self._pairs = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the EMA towards the parameters of ``model``, and average or copy its buffers."""
        updates = int(self.steps)
        if updates == 0 or updates % self.interval:
            super().update_parameters(model)
            return
        averages, sources = self._tensors(model)
        targets = [source.to(average.device) for average, source in zip(averages, sources, strict=True)]
        weight = (1 - self.momentum) * math.exp(-(1 + updates) / self.gamma) + self.momentum
        torch._foreach_lerp_(averages, targets, weight)  # as torch.optim.swa_utils
        if not self.update_buffers:
            for average, source in zip(self.module.buffers(), model.buffers(), strict=True):
                average.copy_(source)
        self.steps += 1

    def _tensors(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """Return the averaged tensors and those of the model."""
        if self._pairs is None or self._pairs[0] is not model:
            sources = model.state_dict(keep_vars=True) if self.update_buffers else dict(model.named_parameters())
            moved = [name for name, average in self.avg_parameters.items() if average.dtype.is_floating_point]
            self._pairs = model, [self.avg_parameters[name] for name in moved], [sources[name] for name in moved]
        return self._pairs[1:]
