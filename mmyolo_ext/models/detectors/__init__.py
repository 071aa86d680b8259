"""Detectors."""

from mmyolo_ext.models.detectors.tta_model import TTAModel
from mmyolo_ext.models.detectors.yolo_detector import YOLODetector

__all__ = ['TTAModel', 'YOLODetector']
