"""Task utilities: assigners and box coders."""

from .bbox_coders import YOLOv3BBoxCoder, YOLOv5BBoxCoder
from .simota_assigner import Predictions, YOLOv5SimOTAAssigner
from .yolov5_assigner import Positives, YOLOv3Assigner, YOLOv5Assigner

__all__ = [
    'Positives',
    'Predictions',
    'YOLOv3Assigner',
    'YOLOv3BBoxCoder',
    'YOLOv5Assigner',
    'YOLOv5BBoxCoder',
    'YOLOv5SimOTAAssigner',
]
