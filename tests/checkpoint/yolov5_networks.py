"""Detectors for the tests of weights: small ones of any kind, and those of converted files."""

from pathlib import Path

import torch
from torch import nn

from mmyolo_ext.apis import load_config
from mmyolo_ext.checkpoint.conversion import config_text, default_base
from mmyolo_ext.checkpoint.network import Network
from mmyolo_ext.registry import MODELS

CONFIGS = Path(__file__).parents[2] / 'configs'


def build(network: Network, folder: Path) -> nn.Module:
    """The detector of the config that a conversion writes."""
    path = folder / 'converted.py'
    base = default_base(network, CONFIGS)
    path.write_text(config_text(network, base, folder / 'converted.pth', 'a test'), encoding='utf-8')
    return MODELS.build(load_config(path).model).eval()


def build_small(arch: str, version: str, depth: float = 0.33, width: float = 0.125, classes: int = 2) -> nn.Module:
    """A detector with random weights; its batch norms too are not as they start."""
    widths = (256, 512, 1024) if arch == 'P5' else (256, 512, 768, 1024)
    factors = {'deepen_factor': depth, 'widen_factor': width}
    head = {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': classes, 'in_channels': 'auto'}
    if arch == 'P6':
        head['prior_generator'] = {
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': [[(8 * 2**i + j, 9 * 2**i + j) for j in range(3)] for i in range(4)],
            'strides': [8, 16, 32, 64],
        }
    detector = MODELS.build(
        {
            'type': 'mmyolo_ext.YOLODetector',
            'backbone': {'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'arch': arch, 'version': version, **factors},
            'neck': {'type': 'mmyolo_ext.YOLOv5PAFPN', 'in_channels': 'auto', 'out_channels': widths, **factors},
            'bbox_head': head,
        }
    )
    generator = torch.Generator().manual_seed(0)
    for tensor in detector.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return detector.eval()
