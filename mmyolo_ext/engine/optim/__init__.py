"""Parameter groups, optimizer wrappers and schedules of the recipe."""

from mmyolo_ext.engine.optim.constructor import YOLOOptimConstructor
from mmyolo_ext.engine.optim.schedulers import WarmupCosineLR, WarmupLinearLR, WarmupMomentum
from mmyolo_ext.engine.optim.wrapper import YOLOAmpOptimWrapper, YOLOOptimWrapper

__all__ = [
    'WarmupCosineLR',
    'WarmupLinearLR',
    'WarmupMomentum',
    'YOLOAmpOptimWrapper',
    'YOLOOptimConstructor',
    'YOLOOptimWrapper',
]
