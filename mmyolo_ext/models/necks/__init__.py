"""Necks: a tuple of maps in, a tuple of maps of ``out_channels`` out."""

from .yolov5_pafpn import YOLOv5PAFPN

__all__ = ['YOLOv5PAFPN']
