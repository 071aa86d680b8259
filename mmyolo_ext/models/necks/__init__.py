"""Necks: a tuple of maps in, a tuple of maps of ``out_channels`` out."""

from .asff import ASFF
from .yolov3_fpn import YOLOv3FPN, YOLOv3TinyFPN
from .yolov5_pafpn import YOLOv5PAFPN

__all__ = ['ASFF', 'YOLOv3FPN', 'YOLOv3TinyFPN', 'YOLOv5PAFPN']
