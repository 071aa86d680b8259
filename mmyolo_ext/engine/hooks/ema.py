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

    With the defaults the n-th step gives ema <- d ema + (1 - d) model with d = 0.9999 (1 - exp(-n / 2000)), norm
    statistics included. The first step copies the model (mmdet's averaging does), where the formula has d < 0.0005.

    The ranks have seen different images, so the averaged statistics of the norm layers differ between them; at the
    end of an epoch they are made equal by their mean, so that every rank validates, and rank 0 saves, the same model.

    Args:
        ema_type: mmdet's ``ExpMomentumEMA``, all tensors at once, with ``momentum`` = 1 - 0.9999, ``gamma`` = 2000.
        **kwargs: As MMEngine's ``EMAHook``.

    Attributes:
        swapped: Whether the model holds the EMA, as during a validation, and the EMA the model.
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
    """mmdet's ``ExpMomentumEMA`` by one call for all tensors instead of one for each; its checkpoints fit both.

    At update n the average moves by w = (1 - momentum) exp(-(1 + n) / gamma) + momentum of its distance to the model;
    the first update copies. On the CPU the numbers are the same to the last bit. On a GPU, where one kernel does it
    all, a number may differ in its last bit.

    Args:
        **kwargs: As mmdet's: ``model``, ``momentum``, ``gamma``, ``interval``, ``device``, ``update_buffers``.
    """

    _pairs: tuple[nn.Module, list[Tensor], list[Tensor]] | None = None

    def find_tensors(self) -> None:
        """Look for the tensors anew at the next update, for they are remembered from one to the next: to find some
        hundreds by their names takes longer than to average them."""
        self._pairs = None

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the parameters of ``model``, and its buffers, by average or by copy."""
        updates = int(self.steps)
        if updates == 0 or updates % self.interval:
            super().update_parameters(model)
            return
        averages, sources = self._tensors(model)
        targets = [source.to(average.device) for average, source in zip(averages, sources, strict=True)]
        weight = (1 - self.momentum) * math.exp(-(1 + updates) / self.gamma) + self.momentum
        torch._foreach_lerp_(averages, targets, weight)  # PyTorch's own averages call it too: optim.swa_utils
        if not self.update_buffers:
            for average, source in zip(self.module.buffers(), model.buffers(), strict=True):
                average.copy_(source)
        self.steps += 1

    def _tensors(self, model: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
        """All that is averaged, and what of the model each follows."""
        if self._pairs is None or self._pairs[0] is not model:
            sources = model.state_dict(keep_vars=True) if self.update_buffers else dict(model.named_parameters())
            moved = [name for name, average in self.avg_parameters.items() if average.dtype.is_floating_point]
            self._pairs = model, [self.avg_parameters[name] for name in moved], [sources[name] for name in moved]
        return self._pairs[1:]
