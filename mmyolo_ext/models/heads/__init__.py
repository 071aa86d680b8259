"""Dense heads: forward, losses, predictions."""

from .yolov3_head import YOLOv3Head
from .yolov5_head import YOLOv5Head

__all__ = ['YOLOv3Head', 'YOLOv5Head']
