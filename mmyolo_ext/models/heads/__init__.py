"""Dense heads: forward, losses, predictions."""

from mmyolo_ext.models.heads.yolov3_head import YOLOv3Head
from mmyolo_ext.models.heads.yolov5_head import YOLOv5Head

__all__ = ['YOLOv3Head', 'YOLOv5Head']
