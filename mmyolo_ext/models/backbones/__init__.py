"""Backbones: ``forward(x) -> tuple`` of maps, shallow to deep, declared by ``out_channels`` and ``out_strides``."""

from .mobilenet_v3 import MobileNetV3
from .shufflenet_v2 import ShuffleNetV2
from .staged_backbone import StagedBackbone
from .timm_backbone import TIMMBackbone
from .tiny_darknet import TinyDarknet
from .yolov5_csp_darknet import YOLOv5CSPDarknet

__all__ = ['MobileNetV3', 'ShuffleNetV2', 'StagedBackbone', 'TIMMBackbone', 'TinyDarknet', 'YOLOv5CSPDarknet']
