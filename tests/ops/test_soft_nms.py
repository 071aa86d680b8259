"""Soft-NMS against hand-derived scores and against its definition."""

import numpy as np
import pytest
import torch
from mmcv.ops import soft_nms
from op_cases import nms_case

# Common 5 x 10, union 100 + 50 - 50: IoU 1/2 with the first, the third far away.
BOXES = torch.tensor([[0.0, 0, 10, 10], [5, 0, 10, 10], [50, 50, 60, 60]])
SCORES = torch.tensor([0.9, 0.8, 0.3])


@pytest.mark.parametrize(
    ('method', 'second'),
    [('naive', None), ('linear', 0.8 * 0.5), ('gaussian', 0.8 * np.exp(-0.25 / 0.5))],
)
def test_scores_decay(method: str, second: float | None) -> None:
    dets, indices = soft_nms(BOXES, SCORES, iou_threshold=0.3, sigma=0.5, min_score=0.01, method=method)
    if second is None:
        assert indices.tolist() == [0, 2]
        return
    assert indices.tolist() == [0, 1, 2]
    assert dets[:, 4].tolist() == pytest.approx([0.9, second, 0.3], rel=1e-6)
    assert torch.equal(dets[:, :4], BOXES[indices])


def test_naive_acts_from_the_threshold_on() -> None:
    assert soft_nms(BOXES, SCORES, iou_threshold=0.5, method='naive')[1].tolist() == [0, 2]
    assert soft_nms(BOXES, SCORES, iou_threshold=0.51, method='naive')[1].tolist() == [0, 1, 2]


def test_min_score_drops() -> None:
    # 0.8 / 2 stays, 0.3 falls.
    assert soft_nms(BOXES, SCORES, iou_threshold=0.3, min_score=0.35, method='linear')[1].tolist() == [0, 1]


def test_empty() -> None:
    dets, indices = soft_nms(torch.zeros(0, 4), torch.zeros(0))
    assert dets.shape == (0, 5) and indices.shape == (0,)


@pytest.mark.parametrize('method', ['naive', 'linear', 'gaussian'])
@pytest.mark.parametrize('offset', [0, 1])
def test_equals_the_definition(method: str, offset: int) -> None:
    """Take the best box, decay the others, forget the poor ones, again: distinct scores leave no choice of order."""
    case = nms_case(4)
    boxes, scores = case['boxes'].astype(float), case['scores'].astype(float)
    left, expected = list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda index: scores[index])
        left.remove(best)
        expected.append((best, scores[best]))
        for index in left:
            iou = _iou(boxes[best], boxes[index], offset)
            if method == 'gaussian':
                scores[index] *= np.exp(-(iou**2) / 0.5)
            elif iou >= 0.3:
                scores[index] *= 1 - iou if method == 'linear' else 0
        left = [index for index in left if scores[index] >= 0.05]
    dets, indices = soft_nms(
        case['boxes'], case['scores'], iou_threshold=0.3, sigma=0.5, min_score=0.05, method=method, offset=offset
    )
    assert len(expected) > 3
    assert indices.tolist() == [index for index, _ in expected]
    assert dets[:, 4] == pytest.approx([score for _, score in expected], rel=1e-4)


def _iou(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = sum((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return width * height / (areas - width * height)
