"""Metrics."""

from .coco_metric import CocoMetric
from .tiled_metric import TiledCocoMetric

__all__ = ['CocoMetric', 'TiledCocoMetric']
