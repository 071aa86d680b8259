"""Metrics."""

from mmyolo_ext.evaluation.coco_metric import CocoMetric
from mmyolo_ext.evaluation.tiled_metric import TiledCocoMetric

__all__ = ['CocoMetric', 'TiledCocoMetric']
