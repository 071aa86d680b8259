"""Backbones: ``forward(x) -> tuple`` of maps, shallow to deep, and ``out_channels``, ``out_strides`` that say which."""

from .yolov5_csp_darknet import YOLOv5CSPDarknet

__all__ = ['YOLOv5CSPDarknet']
