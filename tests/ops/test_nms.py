"""NMS against hand-derived results and against its definition, written out as a loop in float32."""

import importlib

import numpy as np
import pytest
import torch
from mmcv.ops import batched_nms, nms, nms_match, soft_nms
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
    groups = nms_module._groups(nms_module.corners_of(boxes, np.float32(0)), np.float32(0))
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


def test_groups_by_hand() -> None:
    # Unit-high boxes of length 10: the second overlaps the first by 6/14, the third by 10/10; the fourth is far away.
    dets = torch.tensor(
        [[4.0, 0, 14, 1, 0.8], [0, 0, 10, 1, 0.9], [0, 0, 10, 1, 0.7], [100, 0, 110, 1, 0.95], [5, 0, 15, 1, 0.1]]
    )
    # At 0.4: the best near box 1 takes 0 (6/14) and 2; box 4 (5/15 with box 1) was not taken, and 0 is gone.
    assert [group.tolist() for group in nms_match(dets, 0.4)] == [[3], [1, 0, 2], [4]]


def test_threshold_is_reached_unlike_in_nms() -> None:
    dets = torch.tensor([[0.0, 0, 10, 10, 0.9], [5, 0, 10, 10, 0.8]])
    assert [group.tolist() for group in nms_match(dets, 0.5)] == [[0, 1]]


def test_empty_and_one_of_nms_match() -> None:
    assert nms_match(torch.zeros(0, 5), 0.5) == []
    assert [group.tolist() for group in nms_match(torch.tensor([[0.0, 0, 1, 1, 0.5]]), 0.5)] == [[0]]


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
def test_equals_the_definition_of_soft_nms(method: str, offset: int) -> None:
    """Take the best box, decay the others, forget the poor ones, again: distinct scores leave no choice of order."""
    case = nms_case(4)
    boxes, scores = case['boxes'].astype(float), case['scores'].astype(float)
    left, expected = list(range(len(boxes))), []
    while left:
        best = max(left, key=lambda index: scores[index])
        left.remove(best)
        expected.append((best, scores[best]))
        for index in left:
            iou = _iou_soft_nms(boxes[best], boxes[index], offset)
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


def _iou_soft_nms(a: np.ndarray, b: np.ndarray, offset: int) -> float:
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]) + offset)
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]) + offset)
    areas = sum((box[2] - box[0] + offset) * (box[3] - box[1] + offset) for box in (a, b))
    return width * height / (areas - width * height)
