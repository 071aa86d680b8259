"""Task utilities: assigners and box coders."""

from .yolov5_assigner import Positives, YOLOv5Assigner
from .yolov5_bbox_coder import YOLOv5BBoxCoder

__all__ = ['Positives', 'YOLOv5Assigner', 'YOLOv5BBoxCoder']
