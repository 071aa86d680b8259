"""From scores to detections, worked out by hand."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmyolo_ext.models.heads.postprocess import (
    clip_boxes,
    pick_candidates,
    suppress_duplicates,
    to_original_pixels,
)

BOXES = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]])
SCORES = torch.tensor([[0.9, 0.4], [0.8, 0.05], [0.1, 0.7]])
NMS = {'type': 'nms', 'iou_threshold': 0.65}


def test_several_labels_a_box() -> None:
    found = pick_candidates(BOXES, SCORES, score_thr=0.1, multi_label=True, nms_pre=-1)
    # above 0.1, not equal to it: (0, 0), (0, 1), (1, 0), (2, 1)
    assert found.labels.tolist() == [0, 1, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.4, 0.8, 0.7])
    assert found.bboxes.tolist() == BOXES[[0, 0, 1, 2]].tolist()


def test_one_label_a_box() -> None:
    found = pick_candidates(BOXES, SCORES, score_thr=0.1, multi_label=False, nms_pre=-1)
    assert found.labels.tolist() == [0, 0, 1]
    assert found.scores.tolist() == pytest.approx([0.9, 0.8, 0.7])


def test_best_before_nms() -> None:
    found = pick_candidates(BOXES, SCORES, score_thr=0.1, multi_label=True, nms_pre=2)
    assert found.scores.tolist() == pytest.approx([0.9, 0.8])


def test_nms_is_class_wise() -> None:
    # the first two overlap by 90/100; the third lies upon the first with another label
    candidates = InstanceData(
        bboxes=torch.stack([BOXES[0], BOXES[1], BOXES[0], BOXES[2]]),
        scores=torch.tensor([0.9, 0.8, 0.4, 0.7]),
        labels=torch.tensor([0, 0, 1, 1]),
    )
    kept = suppress_duplicates(candidates, NMS, max_per_img=300)
    assert kept.scores.tolist() == pytest.approx([0.9, 0.7, 0.4])
    assert kept.labels.tolist() == [0, 1, 1]
    assert kept.bboxes.tolist() == BOXES[[0, 2, 0]].tolist()
    assert len(suppress_duplicates(candidates, NMS, max_per_img=2)) == 2


def test_classes_stay_apart_left_of_zero() -> None:
    # Were the classes parted by max + 1 = 2 px alone, the second box would be moved onto the first.
    candidates = InstanceData(
        bboxes=torch.tensor([[-9.0, -9, 1, 1], [-11.0, -11, -1, -1]]),
        scores=torch.tensor([0.9, 0.8]),
        labels=torch.tensor([0, 1]),
    )
    assert len(suppress_duplicates(candidates, NMS, max_per_img=300)) == 2


def test_nothing_found() -> None:
    found = pick_candidates(BOXES, SCORES, score_thr=0.95, multi_label=True, nms_pre=10)
    kept = suppress_duplicates(found, NMS, max_per_img=300)
    assert kept.bboxes.shape == (0, 4)
    assert kept.scores.shape == (0,)
    assert kept.labels.shape == (0,)
    assert kept.labels.dtype == torch.long


def test_padding_and_scale_are_undone() -> None:
    # a picture of 200 x 100 (w x h) scaled by (0.5, 0.4) to 100 x 40, 10 px above and 6 px to the left of it
    meta = {'pad_param': (10, 14, 6, 22), 'scale_factor': (0.5, 0.4)}
    # x: (26 - 6) / 0.5 = 40, (56 - 6) / 0.5 = 100; y: (18 - 10) / 0.4 = 20, (30 - 10) / 0.4 = 50
    box = to_original_pixels(torch.tensor([[26.0, 18, 56, 30]]), meta)
    torch.testing.assert_close(box, torch.tensor([[40.0, 20, 100, 50]]))
    # without pad_param the padding is on the right and bottom: 26 / 0.5, 18 / 0.4
    box = to_original_pixels(torch.tensor([[26.0, 18, 56, 30]]), {'scale_factor': (0.5, 0.4)})
    torch.testing.assert_close(box, torch.tensor([[52.0, 45, 112, 75]]))


def test_clipping() -> None:
    clipped = clip_boxes(torch.tensor([[-5.0, -5, 300, 300], [10, 20, 30, 40]]), (100, 200))
    assert clipped.tolist() == [[0, 0, 200, 100], [10, 20, 30, 40]]
