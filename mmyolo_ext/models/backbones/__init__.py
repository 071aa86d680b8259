"""Backbones: ``forward(x) -> tuple`` of maps, shallow to deep; ``out_channels``, ``out_strides`` say which."""

from .yolov5_csp_darknet import YOLOv5CSPDarknet

__all__ = ['YOLOv5CSPDarknet']
