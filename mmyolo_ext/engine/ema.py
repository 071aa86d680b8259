"""An average of the weights that takes all tensors at once."""

import math

import torch
from mmdet.models.layers import ExpMomentumEMA
from torch import Tensor, nn

from mmyolo_ext.registry import MODELS


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
