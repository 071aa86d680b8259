"""An average of the weights that takes all tensors at once."""

import math

import torch
from mmdet.models.layers import ExpMomentumEMA
from torch import nn

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

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average towards the parameters of ``model``, and its buffers, by average or by copy."""
        updates = int(self.steps)
        if updates == 0 or updates % self.interval:
            super().update_parameters(model)
            return
        sources = model.state_dict() if self.update_buffers else dict(model.named_parameters())
        moved = [name for name, average in self.avg_parameters.items() if average.dtype.is_floating_point]
        averages = [self.avg_parameters[name].data for name in moved]
        targets = [sources[name].data.to(average.device) for name, average in zip(moved, averages, strict=True)]
        weight = (1 - self.momentum) * math.exp(-(1 + updates) / self.gamma) + self.momentum
        torch._foreach_lerp_(averages, targets, weight)  # PyTorch's own averages call it too: optim.swa_utils
        if not self.update_buffers:
            for average, source in zip(self.module.buffers(), model.buffers(), strict=True):
                average.copy_(source)
        self.steps += 1
