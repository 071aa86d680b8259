"""Detectors."""

from .tta_model import TTAModel
from .yolo_detector import YOLODetector

__all__ = ['TTAModel', 'YOLODetector']
