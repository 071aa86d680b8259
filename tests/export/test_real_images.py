"""Exported files on images of BCCD: every network, sigmoid and softmax, P6, one image and eight, several sizes.

Weights trained with softmax or on P6 are not at hand; seeded ones give boxes of every size with scores up to 1.
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from untrained import LETTERBOX, build, settle

from mmyolo_ext.export import parity, runtime
from mmyolo_ext.export.formats import Options, describe, open_exported, write

pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

P6 = {'backbone__widen_factor': 0.125, 'neck__widen_factor': 0.125, 'bbox_head__num_classes': 3}
# per network, one activation is compared by raw predictions, the other by the detections of --nms
CASES = {
    'yolov5n-sigmoid': ('yolov5/yolov5_n_320_bccd.py', False, {}, False),
    'yolov5n-softmax-nms': ('yolov5/yolov5_n_320_bccd.py', True, {}, True),
    'shufflenetv2-softmax': ('light/yolov5_shufflenetv2-1.0_320_bccd.py', True, {}, False),
    'shufflenetv2-sigmoid-nms': ('light/yolov5_shufflenetv2-1.0_320_bccd.py', False, {}, True),
    'mobilenetv3-softmax': ('light/yolov5_mobilenetv3-small_320_bccd.py', True, {}, False),
    'mobilenetv3-sigmoid-nms': ('light/yolov5_mobilenetv3-small_320_bccd.py', False, {}, True),
    'rtmdet-body-softmax': ('yolov5_rtmdet/yolov5_rtmdet-tiny_320_bccd.py', True, {}, False),
    'rtmdet-body-sigmoid-nms': ('yolov5_rtmdet/yolov5_rtmdet-tiny_320_bccd.py', False, {}, True),
    'p6-softmax': ('yolov5/yolov5_n6_1280_coco.py', True, P6, False),
    'p6-sigmoid-nms': ('yolov5/yolov5_n6_1280_coco.py', False, P6, True),
}
SIZES_HW = ((256, 320), (192, 256), (320, 192))


def batch_of(bccd: Path, rules: dict, count: int, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the first test images as network input."""
    names = (bccd / 'ImageSets/Main/test.txt').read_text().split()[:count]
    images = [runtime.read_image(bccd / 'JPEGImages' / f'{name}.jpg') for name in names]
    return runtime.normalise([runtime.letterbox(image, size_hw, size_hw, LETTERBOX)[0] for image in images], rules)


@pytest.mark.parametrize('case', CASES)
def test_boxes_and_scores_of_pytorch(case: str, bccd_dir: Path, tmp_path: Path) -> None:
    config, softmax, options, nms = CASES[case]
    detector = build(config, softmax, **options)
    names = ('RBC', 'WBC', 'Platelets')
    metadata = {key: json.loads(text) for key, text in describe(detector, names, LETTERBOX, SIZES_HW[0]).items()}
    settle(detector, batch_of(bccd_dir, metadata, 2, SIZES_HW[0]))
    detector.bbox_head.test_cfg['score_thr'] = 0.25
    file = tmp_path / 'model.onnx'
    write(detector, file, Options(nms=nms, dynamic=True), names, LETTERBOX, SIZES_HW[0])
    run, rules = open_exported(file, 'onnx')
    assert (rules['activation'], rules['multi_label']) == (('softmax', False) if softmax else ('sigmoid', True))
    one, eight, tall = (
        batch_of(bccd_dir, rules, count, size) for count, size in zip((1, 8, 2), SIZES_HW, strict=True)
    )
    found = parity.check(in_parts(detector), run, [one, eight, tall], rules, parity.Bound(0.1, 1e-4))
    assert found.alone == 0 and found.boxes_px <= 0.1 and found.scores <= 1e-4, str(found)
    assert_busy(detector, eight)


def in_parts(detector: nn.Module) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    """Return a function that runs the parts of the detector, without the exported graph."""

    def run(images: Tensor) -> tuple[Tensor, Tensor]:
        boxes, objectness, classes = detector.bbox_head.decode(*detector(images))
        return boxes, objectness[..., None] * classes

    return run


def assert_busy(detector: nn.Module, images: np.ndarray) -> None:
    """Check that every image has many detections of several classes."""
    with torch.no_grad():
        boxes, scores = in_parts(detector)(torch.from_numpy(images))
    best, label = scores.max(dim=2)
    above = best > 0.25
    assert (above.sum(dim=1) > 20).all() and len(label[above].unique()) > 1
    # the boxes (K, 4) px of all images differ
    assert boxes[above].std(dim=0).min() > 10
