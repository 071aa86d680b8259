"""How gradients are summed and parameters are grouped."""

from .optim_constructor import YOLOOptimConstructor
from .optim_wrapper import YOLOAmpOptimWrapper, YOLOOptimWrapper

__all__ = ['YOLOAmpOptimWrapper', 'YOLOOptimConstructor', 'YOLOOptimWrapper']
