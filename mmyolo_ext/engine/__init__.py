"""The training recipe, as parts of MMEngine's own extension points."""

from mmyolo_ext.engine import hooks, loggers, optim, runner, train_loop

__all__ = ['hooks', 'loggers', 'optim', 'runner', 'train_loop']
