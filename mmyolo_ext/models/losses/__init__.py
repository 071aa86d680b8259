"""Losses with mmdet's call, for the heads of this package and of mmdet."""

from .box_losses import IoULoss, NWDLoss, SumLoss
from .class_losses import BCELoss, FocalLoss, QualityFocalLoss, SlideLoss
from .repulsion_loss import RepulsionLoss

__all__ = [
    'BCELoss',
    'FocalLoss',
    'IoULoss',
    'NWDLoss',
    'QualityFocalLoss',
    'RepulsionLoss',
    'SlideLoss',
    'SumLoss',
]
