"""Task utilities: assigners and box coders."""

from .positives import Positives
from .simota_assigner import YOLOv5SimOTAAssigner
from .yolov3_assigner import YOLOv3Assigner
from .yolov3_bbox_coder import YOLOv3BBoxCoder
from .yolov5_assigner import YOLOv5Assigner
from .yolov5_bbox_coder import YOLOv5BBoxCoder

__all__ = [
    'Positives',
    'YOLOv3Assigner',
    'YOLOv3BBoxCoder',
    'YOLOv5Assigner',
    'YOLOv5BBoxCoder',
    'YOLOv5SimOTAAssigner',
]
