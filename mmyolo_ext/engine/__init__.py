"""The training recipe, as parts of MMEngine's own extension points."""

from . import ema, hooks, optimizers, runner, schedulers, train_loop

__all__ = ['ema', 'hooks', 'optimizers', 'runner', 'schedulers', 'train_loop']
