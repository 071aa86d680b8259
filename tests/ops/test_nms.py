"""NMS against hand-derived results and against its definition, written out as a loop in float32."""

import importlib

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms
from op_cases import KINDS, nms_case

nms_module = importlib.import_module('mmyolo_ext.ops.nms')


def loop_nms(boxes: np.ndarray, scores: np.ndarray, iou_threshold: float, offset: int) -> list[int]:
    """The definition, box by box, in the order that torch gives the scores."""
    one, threshold, kept = np.float32(offset), np.float32(iou_threshold), []
    for index in torch.from_numpy(scores).sort(0, descending=True)[1].numpy():
        if not any(_iou(boxes[index], boxes[other], one) > threshold for other in kept):
            kept.append(int(index))
    return kept


def _iou(a: np.ndarray, b: np.ndarray, one: np.float32) -> np.float32:
    zero = np.float32(0)
    width = max(zero, min(a[2], b[2]) - max(a[0], b[0]) + one)
    height = max(zero, min(a[3], b[3]) - max(a[1], b[1]) + one)
    areas = [(box[2] - box[0] + one) * (box[3] - box[1] + one) for box in (b, a)]
    return width * height / (areas[0] + areas[1] - width * height)


def run(boxes: list, scores: list, iou_threshold: float, **options: float) -> list[int]:
    boxes, scores = (torch.tensor(values, dtype=torch.float32) for values in (boxes, scores))
    return nms(boxes.view(-1, 4), scores, iou_threshold, **options)[1].tolist()


def test_threshold_is_exceeded_not_reached() -> None:
    # Common 5 x 10, union 100 + 50 - 50: IoU 1/2 exactly.
    boxes = [[0, 0, 10, 10], [5, 0, 10, 10]]
    assert run(boxes, [0.9, 0.8], 0.5) == [0, 1]
    assert run(boxes, [0.9, 0.8], 0.49) == [0]


def test_threshold_is_rounded_to_float32() -> None:
    # Common 6 x 10, union 100: IoU 0.6 in float32, which lies above 0.6 in float64.
    assert float(np.float32(0.6)) > 0.6
    assert run([[0, 0, 10, 10], [4, 0, 10, 10]], [0.9, 0.8], 0.6) == [0, 1]


def test_offset_counts_the_last_pixel() -> None:
    # Pixels 0-9 and 5-10: with the last pixel, common 5 x 10, union 100 + 60 - 50 = 110, IoU 0.4545;
    # without it, common 4 x 9 = 36, union 81 + 45 - 36 = 90, IoU 0.4.
    boxes = [[0, 0, 9, 9], [5, 0, 10, 9]]
    assert run(boxes, [0.9, 0.8], 0.42, offset=1) == [0]
    assert run(boxes, [0.9, 0.8], 0.42, offset=0) == [0, 1]


def test_a_dropped_box_drops_nobody() -> None:
    # IoU of neighbours 6/14 = 0.43, of the ends 2/18: the middle one falls to the first, the last one stays.
    boxes = [[0, 0, 10, 1], [4, 0, 14, 1], [8, 0, 18, 1]]
    assert run(boxes, [0.9, 0.8, 0.7], 0.4) == [0, 2]


def test_equal_scores_keep_one() -> None:
    assert len(run([[0, 0, 10, 10]] * 50, [0.5] * 50, 0.5)) == 1


def test_boxes_without_area_stay() -> None:
    # 0 / 0 exceeds nothing.
    assert run([[3, 3, 3, 3]] * 3, [0.5] * 3, 0.0) == [0, 1, 2]


def test_empty_and_one() -> None:
    empty = nms(torch.zeros(0, 4), torch.zeros(0), 0.5)[1]
    assert empty.tolist() == [] and empty.dtype == torch.int64
    assert run([[0, 0, 1, 1]], [0.1], 0.5) == [0]


def test_score_threshold_and_max_num() -> None:
    boxes = [[10 * x, 0, 10 * x + 5, 5] for x in range(5)]
    scores = [0.1, 0.5, 0.3, 0.9, 0.2]
    assert run(boxes, scores, 0.5, score_threshold=0.2) == [3, 1, 2]
    assert run(boxes, scores, 0.5, max_num=2) == [3, 1]


def test_negative_threshold_keeps_one_box() -> None:
    # The IoU of distant boxes, 0, exceeds it: groups that do not overlap must not be taken apart.
    boxes = [[1000 * x, 0, 1000 * x + 5, 5] for x in range(300)]
    assert run(boxes, list(range(300)), -1.0) == [299]


@pytest.mark.filterwarnings('ignore::RuntimeWarning')  # 0 / 0 and inf - inf in the loop
@pytest.mark.parametrize('block', [1, 7, 32, 128])
@pytest.mark.parametrize('kind', [kind for kind in KINDS if kind != 'many'])
def test_equals_the_definition(kind: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nms_module, 'BLOCK', block)
    for repeat in range(4):
        case = nms_case(10 * repeat + KINDS.index(kind))
        boxes, scores = case['boxes'][:150], case['scores'][:150]
        for offset in (0, 1):
            found = nms(torch.from_numpy(boxes), torch.from_numpy(scores), case['iou_threshold'], offset)[1].tolist()
            assert found == loop_nms(boxes, scores, case['iou_threshold'], offset)


def test_groups_part_classes_and_hold_every_box_once() -> None:
    rng = np.random.RandomState(0)
    classes = rng.randint(5, size=1000)
    corner = rng.rand(1000, 2) * 90 + 101 * classes[:, None]
    boxes = np.hstack([corner, corner + rng.rand(1000, 2) * 10]).astype(np.float32)
    groups = nms_module._groups(nms_module.Corners.of(boxes, np.float32(0)), np.float32(0))
    assert sorted(np.concatenate(groups).tolist()) == list(range(1000))
    # 200 boxes of a class fill more than one block of 128, so no group has two classes.
    assert all(len(set(classes[group])) == 1 for group in groups)


def test_groups_count_the_last_pixel() -> None:
    # Columns of one pixel, each three times, 300 boxes in blocks of 128. Without the last pixel they have no width.
    boxes = [[3 * x, 0, 3 * x, 9] for x in range(100)] * 3
    scores = [1 - place / 1000 for place in range(300)]
    assert run(boxes, scores, 0.5, offset=1) == list(range(100))
    assert len(run(boxes, scores, 0.5, offset=0)) == 300


@pytest.mark.parametrize('split_thr', [100, 10000])
def test_classes_do_not_drop_each_other(split_thr: int) -> None:
    rng = np.random.RandomState(1)
    corner = rng.rand(600, 2) * 50
    boxes = np.hstack([corner, corner + 10 + rng.rand(600, 2) * 30]).astype(np.float32)
    scores, classes = rng.rand(600).astype(np.float32), rng.randint(3, size=600)
    config = {'type': 'nms', 'iou_threshold': 0.3, 'split_thr': split_thr}
    kept = batched_nms(*(torch.from_numpy(array) for array in (boxes, scores, classes)), config)[1].tolist()
    alone = []
    for label in range(3):
        members = np.flatnonzero(classes == label)
        alone += members[loop_nms(boxes[members], scores[members], 0.3, 0)].tolist()
    assert sorted(kept) == sorted(alone)
    assert (np.diff(scores[kept]) <= 0).all()


def test_half_precision_and_gradients_are_accepted() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [1, 0, 10, 10], [20, 0, 30, 10]], requires_grad=True)
    scores = torch.tensor([0.5, 0.75, 0.25], requires_grad=True)
    assert nms(boxes, scores, 0.5)[1].tolist() == [1, 2]
    assert nms(boxes.detach().half(), scores.detach().half(), 0.5)[1].tolist() == [1, 2]
