"""Task utilities: assigners and box coders."""

from mmyolo_ext.models.task_modules.bbox_coders import YOLOv3BBoxCoder, YOLOv5BBoxCoder
from mmyolo_ext.models.task_modules.simota_assigner import Predictions, YOLOv5SimOTAAssigner
from mmyolo_ext.models.task_modules.yolov5_assigner import Positives, YOLOv3Assigner, YOLOv5Assigner

__all__ = [
    'Positives',
    'Predictions',
    'YOLOv3Assigner',
    'YOLOv3BBoxCoder',
    'YOLOv5Assigner',
    'YOLOv5BBoxCoder',
    'YOLOv5SimOTAAssigner',
]
