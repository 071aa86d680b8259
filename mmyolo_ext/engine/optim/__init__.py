"""Parameter groups, optimizer wrappers and schedules of the recipe."""

from .constructor import YOLOOptimConstructor
from .schedulers import WarmupCosineLR, WarmupLinearLR, WarmupMomentum
from .wrapper import YOLOAmpOptimWrapper, YOLOOptimWrapper

__all__ = [
    'WarmupCosineLR',
    'WarmupLinearLR',
    'WarmupMomentum',
    'YOLOAmpOptimWrapper',
    'YOLOOptimConstructor',
    'YOLOOptimWrapper',
]
