"""The network with the weights of the original implementations gives what the originals gave."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pickled_weights import read_state_dict
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.detectors import YOLODetector

NUM_CLASSES = 4
ABSOLUTE = 1e-3


def build(version: str, anchors_px: list | None = None) -> YOLODetector:
    size = {'deepen_factor': 0.33, 'widen_factor': 0.25}
    head = {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': NUM_CLASSES, 'in_channels': 'auto'}
    if anchors_px is not None:
        head['prior_generator'] = {
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': anchors_px,
            'strides': [8, 16, 32],
        }
    return YOLODetector(
        backbone={'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'version': version, **size},
        neck={
            'type': 'mmyolo_ext.YOLOv5PAFPN',
            'in_channels': 'auto',
            'out_channels': (256, 512, 1024),
            **size,
        },
        bbox_head=head,
    ).eval()


# layer of the original -> layer of ours, for the parts that differ between releases 6 and 5
BACKBONE_V6 = {0: '0', 1: '1.0', 2: '1.1', 3: '2.0', 4: '2.1', 5: '3.0', 6: '3.1', 7: '4.0', 8: '4.1', 9: '4.2'}
NECK = {
    10: 'reduce_layers.1',
    13: 'top_down_layers.1',
    14: 'reduce_layers.0',
    17: 'top_down_layers.0',
    18: 'downsample_layers.0',
    20: 'bottom_up_layers.0',
    21: 'downsample_layers.1',
    23: 'bottom_up_layers.1',
}
INSIDE_CSP = [
    (r'\.m\.(\d+)\.cv(\d)\.', r'.blocks.\1.conv\2.'),
    (r'\.cv1\.', '.main_conv.'),
    (r'\.cv2\.', '.short_conv.'),
    (r'\.cv3\.', '.final_conv.'),
]
INSIDE_POOLING = [(r'\.cv(\d)\.', r'.conv\1.')]
POOLING_LAYER = {'v6': 9, 'v5': 8}


def from_ultralytics(weights: dict[str, Tensor], version: str) -> dict[str, Tensor]:
    """Names of ours for the weights of a model whose layers are numbered 0 to 24."""
    renamed = {}
    for name, tensor in weights.items():
        layer, rest = re.fullmatch(r'model\.(\d+)(\..+)', name).groups()
        layer = int(layer)
        if layer == 24:
            if rest.startswith('.m.'):
                renamed[f'bbox_head.convs_pred{rest[2:]}'] = tensor
            continue  # the anchors
        rules = INSIDE_POOLING if layer == POOLING_LAYER[version] else INSIDE_CSP
        for pattern, replacement in rules:
            rest = re.sub(pattern, replacement, rest)
        part = f'backbone.layers.{BACKBONE_V6[layer]}' if layer in BACKBONE_V6 else f'neck.{NECK[layer]}'
        renamed[part + rest] = tensor
    return renamed


@pytest.mark.parametrize(('name', 'version'), [('v7_yolov5n', 'v6'), ('v5_yolov5s_w025', 'v5')])
def test_outputs_of_ultralytics_weights(golden_dir: Path, name: str, version: str) -> None:
    expected = np.load(golden_dir / f'{name}.npz')
    detector = build(version, expected['anchors_px'].tolist())
    detector.load_state_dict(from_ultralytics(read_state_dict(golden_dir / f'{name}.pt'), version))
    with torch.no_grad():
        outputs = detector(golden_input(expected))
        decoded = detector.bbox_head.decode(*outputs)

    for level, (cls_score, bbox_pred, objectness) in enumerate(zip(*outputs, strict=True)):
        raw = torch.from_numpy(expected[f'raw{level}'])  # (N, A, H, W, 5+C)
        torch.testing.assert_close(by_anchor(bbox_pred), raw[..., :4], atol=ABSOLUTE, rtol=0)
        torch.testing.assert_close(objectness, raw[..., 4], atol=ABSOLUTE, rtol=0)
        torch.testing.assert_close(by_anchor(cls_score), raw[..., 5:], atol=ABSOLUTE, rtol=0)
    golden = torch.from_numpy(expected['decoded'])
    torch.testing.assert_close(decoded.boxes_xyxy, cxcywh_to_xyxy(golden[..., :4]), atol=ABSOLUTE, rtol=1e-5)
    torch.testing.assert_close(decoded.objectness, golden[..., 4], atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded.class_scores, golden[..., 5:], atol=1e-5, rtol=0)


def test_outputs_of_mmyolo_weights(golden_dir: Path) -> None:
    expected = np.load(golden_dir / 'mmyolo_yolov5n.npz')
    content = torch.load(golden_dir / 'mmyolo_yolov5n.pth', weights_only=True)
    detector = build('v6')
    detector.load_state_dict(from_mmyolo(content['state_dict']))
    with torch.no_grad():
        outputs = detector(golden_input(expected))
    for part, levels in zip(('cls', 'box', 'obj'), outputs, strict=True):
        for index, level in enumerate(levels):
            torch.testing.assert_close(level, torch.from_numpy(expected[f'{part}{index}']), atol=ABSOLUTE, rtol=0)


MMYOLO_NAMES = [
    (r'^backbone\.stem\.', 'backbone.layers.0.'),
    (r'^backbone\.stage(\d)\.', r'backbone.layers.\1.'),
    (r'^neck\.reduce_layers\.2\.', 'neck.reduce_layers.1.'),
    (r'^neck\.top_down_layers\.0\.1\.', 'neck.reduce_layers.0.'),
    (r'^neck\.top_down_layers\.1\.', 'neck.top_down_layers.X.'),
    (r'^neck\.top_down_layers\.0\.0\.', 'neck.top_down_layers.1.'),
    (r'^neck\.top_down_layers\.X\.', 'neck.top_down_layers.0.'),
    (r'^bbox_head\.head_module\.', 'bbox_head.'),
]


def from_mmyolo(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names of ours for MMYOLO's; it lists the top-down levels from deep to shallow, we from shallow to deep."""
    renamed = {}
    for name, tensor in weights.items():
        for pattern, replacement in MMYOLO_NAMES:
            name = re.sub(pattern, replacement, name)
        renamed[name] = tensor.float()
    return renamed


def golden_input(expected: np.lib.npyio.NpzFile) -> Tensor:
    rng = np.random.RandomState(int(expected['input_seed']))
    return torch.from_numpy(rng.rand(2, 3, 64, 96).astype(np.float32))


def by_anchor(level: Tensor) -> Tensor:
    """(N, A*D, H, W) -> (N, A, H, W, D)."""
    return level.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2)
