"""Backbones: ``forward(x) -> tuple`` of maps, shallow to deep, declared by ``out_channels`` and ``out_strides``."""

from mmyolo_ext.models.backbones.mobilenet_v3 import MobileNetV3
from mmyolo_ext.models.backbones.shufflenet_v2 import ShuffleNetV2
from mmyolo_ext.models.backbones.staged_backbone import StagedBackbone
from mmyolo_ext.models.backbones.timm_backbone import TIMMBackbone
from mmyolo_ext.models.backbones.tiny_darknet import TinyDarknet
from mmyolo_ext.models.backbones.yolov5_csp_darknet import YOLOv5CSPDarknet

__all__ = ['MobileNetV3', 'ShuffleNetV2', 'StagedBackbone', 'TIMMBackbone', 'TinyDarknet', 'YOLOv5CSPDarknet']
