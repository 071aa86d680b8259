"""Objects with two boxes: the count, and the NMS of validation and of prediction on two boxes of one object."""

import sys
from pathlib import Path

import numpy as np
import pytest

from mmyolo_ext.apis.inference import NMS_IOU
from mmyolo_ext.export.runtime import candidates, suppress

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

from overlapping_boxes import count_doubled

OBJECT = [0, 0, 100, 100]  # xyxy
# Shifted by 20 to each side: IoU with the object 80 / 120 = 0.667 each, with each other 60 / 140 = 0.429. By 15: 0.739
# and 70 / 130 = 0.538. By 10: 0.818 and 80 / 120 = 0.667.
SHIFTS = {20: (2, 2), 15: (2, 1), 10: (1, 1)}  # boxes that are left at 0.65, and at 0.45
RULES = {'multi_label': True, 'score_thr': 0.001, 'nms_pre': -1, 'class_agnostic': False, 'max_per_img': 300}


def detect(shift: int, nms_iou: float, scores: tuple = ((0.9, 0), (0.8, 0))) -> list[dict]:
    boxes = np.array([[-shift, 0, 100 - shift, 100], [shift, 0, 100 + shift, 100]], np.float32)
    found = suppress(*candidates(boxes, np.array(scores, np.float32), RULES, 0.0), RULES | {'nms_iou': nms_iou})
    return [
        {'image_id': 7, 'category_id': int(label) + 1, 'score': float(score), 'bbox': [x1, y1, x2 - x1, y2 - y1]}
        for (x1, y1, x2, y2), score, label in zip(found.boxes_xyxy.tolist(), found.scores, found.labels, strict=True)
    ]


@pytest.mark.parametrize('shift', SHIFTS)
def test_two_boxes_of_one_object(shift: int) -> None:
    gt = {'annotations': [{'image_id': 7, 'category_id': 1, 'bbox': OBJECT}]}
    for nms_iou, left in zip((0.65, NMS_IOU), SHIFTS[shift], strict=True):
        found = detect(shift, nms_iou)
        assert (len(found), count_doubled(gt, found, 0.25)) == (left, left - 1)


def test_what_doubles_no_object() -> None:
    gt = {'annotations': [{'image_id': 7, 'category_id': 1, 'bbox': OBJECT}]}
    assert count_doubled(gt, detect(20, 0.65), 0.85) == 0  # the second has 0.8
    assert count_doubled(gt, detect(20, 0.65, ((0.9, 0), (0, 0.8))), 0.25) == 0  # two classes
    assert count_doubled(gt, detect(40, 0.65), 0.25) == 0  # IoU with the object 60 / 140
    elsewhere = {'annotations': [{'image_id': 8, 'category_id': 1, 'bbox': OBJECT}]}
    assert count_doubled(elsewhere, detect(20, 0.65), 0.25) == 0
    # of another class than the object: they are still two boxes on it
    assert count_doubled(gt, detect(20, 0.65, ((0, 0.9), (0, 0.8))), 0.25) == 1
