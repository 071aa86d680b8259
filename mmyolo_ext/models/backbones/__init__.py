"""Backbones: ``forward(x) -> tuple`` of maps, shallow to deep; ``out_channels``, ``out_strides`` say which."""

from .mobilenet_v3 import MobileNetV3
from .shufflenet_v2 import ShuffleNetV2
from .staged_backbone import StagedBackbone
from .timm_backbone import TIMMBackbone
from .yolov5_csp_darknet import YOLOv5CSPDarknet

__all__ = ['MobileNetV3', 'ShuffleNetV2', 'StagedBackbone', 'TIMMBackbone', 'YOLOv5CSPDarknet']
