"""Search over config keys with Optuna."""

from .space import Parameter, read_space, resolve_space
from .study import Tuner

__all__ = ['Parameter', 'Tuner', 'read_space', 'resolve_space']
