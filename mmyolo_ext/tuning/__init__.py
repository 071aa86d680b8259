"""Search over config keys with Optuna."""

from mmyolo_ext.tuning.space import Parameter, read_space, resolve_space
from mmyolo_ext.tuning.study import Tuner

__all__ = ['Parameter', 'Tuner', 'read_space', 'resolve_space']
