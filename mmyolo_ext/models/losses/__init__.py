"""Losses: any of them fits any head of mmdet that uses the same call."""

from .bce_loss import BCELoss
from .focal_loss import FocalLoss, QualityFocalLoss
from .iou_loss import IoULoss
from .nwd_loss import NWDLoss
from .repulsion_loss import RepulsionLoss
from .slide_loss import SlideLoss
from .sum_loss import SumLoss

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
