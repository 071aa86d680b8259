"""Learning rate and momentum of the recipe, computed from the iteration alone.

t: completed iterations. T: iterations of the whole training. W: iterations of the warm-up.
"""

import math

from mmengine.optim.scheduler.momentum_scheduler import MomentumSchedulerMixin
from mmengine.optim.scheduler.param_scheduler import INF, OptimizerType, _ParamScheduler

from mmyolo_ext.registry import PARAM_SCHEDULERS


class _WarmupScheduler(_ParamScheduler):
    """Base of both schedules: the length of the warm-up, and resuming by recomputation.

    MMEngine's schedulers multiply the last value by a ratio, so that each value depends on all before it. These are
    computed from the number of completed iterations: a resumed training has exactly the same rates, and ``max_epochs``
    may be increased.
    """

    closed_form = True  # may be moved to another iteration on resuming

    def __init__(self, *args, warmup_iters: int, by_epoch: bool = False, **kwargs) -> None:
        if by_epoch:
            raise ValueError(f'{type(self).__name__} needs convert_to_iter_based=True, or by_epoch=False, got neither')
        self.warmup_iters = warmup_iters
        super().__init__(*args, by_epoch=False, **kwargs)

    @classmethod
    def build_iter_from_epoch(
        cls,
        *args,
        epoch_length: int,
        warmup_epochs: float = 3,
        min_warmup_iters: int = 100,
        begin: int = 0,
        end: int = INF,
        by_epoch: bool = True,
        **kwargs,
    ) -> '_WarmupScheduler':
        """Build the scheduler for ``convert_to_iter_based=True``; ``begin`` and ``end`` are epochs."""
        warmup_iters = max(round(warmup_epochs * epoch_length), min_warmup_iters)
        begin, end = begin * epoch_length, end if end == INF else end * epoch_length
        return cls(*args, warmup_iters=warmup_iters, begin=begin, end=end, **kwargs)

    def step(self) -> None:
        # With accumulation the optimizer steps less often; MMEngine would warn about a wrong order of calls.
        self.optimizer._global_step = max(self.optimizer._global_step, self._global_step)
        super().step()

    def state_dict(self) -> dict:
        return {'last_step': self.last_step, '_global_step': self._global_step, '_last_value': self._last_value}

    def load_state_dict(self, state_dict: dict) -> None:
        """Load the progress; the shape of the schedule is that of the config."""
        super().load_state_dict({key: state_dict[key] for key in ('last_step', '_global_step', '_last_value')})
        self.base_values = [group[f'initial_{self.param_name}'] for group in self.optimizer.param_groups]
        if self.begin <= self._global_step < self.end:
            for group, value in zip(self.optimizer.param_groups, self._get_value(), strict=True):
                group[self.param_name] = value

    def _warm(self, start: float, goal: float) -> float:
        """Interpolate linearly from ``start`` at t = 0 to ``goal`` at t = W."""
        if self.last_step >= self.warmup_iters:
            return goal
        return start + (goal - start) * (self.last_step / self.warmup_iters)


class _WarmupLR(_WarmupScheduler):
    """Base of the learning rates: a linear warm-up into ``_decay``, the factor of the base rate over the training."""

    def __init__(
        self,
        optimizer: OptimizerType,
        *args,
        start_factor: float = 0.0,
        bias_start: float = 0.1,
        final_factor: float = 0.01,
        **kwargs,
    ) -> None:
        self.start_factor = start_factor
        self.bias_start = bias_start
        self.final_factor = final_factor
        super().__init__(optimizer, 'lr', *args, **kwargs)

    def _get_value(self) -> list[float]:
        decay = self._decay(self.last_step / (self.end - self.begin))
        values = []
        for group, base in zip(self.optimizer.param_groups, self.base_values, strict=True):
            is_bias = group.get('role') == 'bias'
            start = self.bias_start * group.get('lr_mult', 1.0) if is_bias else self.start_factor * base
            values.append(self._warm(start, base * decay))
        return values


@PARAM_SCHEDULERS.register_module()
class WarmupLinearLR(_WarmupLR):
    """Linear decay with a linear warm-up into it.

    After warm-up, rate(t) = base * (1 - (1 - final_factor) * t / T). During warm-up the rate is interpolated linearly
    between ``start_factor * base`` (groups of role ``bias``: the absolute rate ``bias_start``, times the group's
    ``lr_mult``) and the decayed rate at t. The decay is computed per iteration, not per epoch.

    Args:
        optimizer: Optimizer or wrapper; groups without a key ``role`` count as weights.
        warmup_iters: W. In a config give ``warmup_epochs`` and ``min_warmup_iters`` with
            ``convert_to_iter_based=True`` instead; W is the larger of the two.
        start_factor: Initial rate of weights, as a factor of the base rate.
        bias_start: Initial rate of biases.
        final_factor: Rate at t = T, as a factor of the base rate.
    """

    def _decay(self, done: float) -> float:
        return 1 - (1 - self.final_factor) * done


@PARAM_SCHEDULERS.register_module()
class WarmupCosineLR(_WarmupLR):
    """:class:`WarmupLinearLR` with a half-cosine decay, which stays high for longer and ends more slowly.

    After warm-up, rate(t) = base * (final_factor + (1 - final_factor) * (1 + cos(pi t / T)) / 2), as MMEngine's
    ``CosineAnnealingLR`` over the whole training (Loshchilov and Hutter, arXiv 1608.03983, eq. 5, without restarts).

    Args:
        **kwargs: As :class:`WarmupLinearLR`.
    """

    def _decay(self, done: float) -> float:
        return self.final_factor + (1 - self.final_factor) * (1 + math.cos(math.pi * done)) / 2


@PARAM_SCHEDULERS.register_module()
class WarmupMomentum(MomentumSchedulerMixin, _WarmupScheduler):
    """Warm the momentum (beta 1 of Adam) up linearly from ``start`` to the value of the optimizer.

    Args:
        optimizer: Optimizer or wrapper.
        warmup_iters: W, as in :class:`WarmupLinearLR`.
        start: Momentum at t = 0.
    """

    def __init__(self, optimizer: OptimizerType, *args, start: float = 0.8, **kwargs) -> None:
        self.start = start
        super().__init__(optimizer, *args, **kwargs)

    def _get_value(self) -> list[float]:
        return [self._warm(self.start, base) for base in self.base_values]
