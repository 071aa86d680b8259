"""The training recipe, as parts of MMEngine's own extension points."""

from . import hooks, optimizers, schedulers

__all__ = ['hooks', 'optimizers', 'schedulers']
