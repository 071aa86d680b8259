"""Average the weights once per optimizer step."""

from mmengine.dist import all_reduce_params, is_distributed
from mmengine.hooks import EMAHook
from mmengine.runner import Runner

from mmyolo_ext.engine.ema import ForeachEMA
from mmyolo_ext.registry import HOOKS


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
