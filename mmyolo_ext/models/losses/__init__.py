"""Losses: any of them fits any head of mmdet that uses the same call."""

from .bce_loss import BCELoss
from .iou_loss import IoULoss

__all__ = ['BCELoss', 'IoULoss']
