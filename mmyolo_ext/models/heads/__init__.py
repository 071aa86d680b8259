"""Dense heads: forward, losses, predictions."""

from .yolov5_head import YOLOv5Head

__all__ = ['YOLOv5Head']
