"""The training recipe, as parts of MMEngine's own extension points."""

from . import hooks, optim, runner, train_loop

__all__ = ['hooks', 'optim', 'runner', 'train_loop']
