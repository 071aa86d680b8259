"""Losses with mmdet's call, for the heads of this package and of mmdet."""

from mmyolo_ext.models.losses.box_losses import IoULoss, NWDLoss, SumLoss
from mmyolo_ext.models.losses.class_losses import BCELoss, FocalLoss, QualityFocalLoss, SlideLoss
from mmyolo_ext.models.losses.repulsion_loss import RepulsionLoss

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
