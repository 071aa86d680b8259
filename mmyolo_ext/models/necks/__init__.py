"""Necks: a tuple of maps in, a tuple of maps of ``out_channels`` out."""

from mmyolo_ext.models.necks.asff import ASFF
from mmyolo_ext.models.necks.yolov3_fpn import YOLOv3FPN, YOLOv3TinyFPN
from mmyolo_ext.models.necks.yolov5_pafpn import YOLOv5PAFPN

__all__ = ['ASFF', 'YOLOv3FPN', 'YOLOv3TinyFPN', 'YOLOv5PAFPN']
