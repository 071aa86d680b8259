"""Boxes: formats, the IoU family against independent formulas, and suspicious boxes of annotation files."""

import math

import numpy as np
import pytest
import torch

from mmyolo_ext.boxes import IOU_MODES, cxcywh_to_xyxy, paired_iou, suspect_boxes, xyxy_to_cxcywh
from mmyolo_ext.registry import MODELS

BOX = torch.tensor([0.0, 0.0, 4.0, 2.0])
TARGET = torch.tensor([2.0, 1.0, 4.0, 5.0])
# overlap 2x1 = 2, areas 8 and 8: IoU = 2 / 14
IOU = 1 / 7
# enclosing box 4x5 = 20: GIoU = 1/7 - (20 - 14) / 20
GIOU = 1 / 7 - 0.3
# centres (2, 1) and (3, 3): distance^2 = 5; diagonal^2 = 16 + 25: DIoU = 1/7 - 5/41
DIOU = 1 / 7 - 5 / 41
# v = 4/pi^2 (atan(4/2) - atan(2/4))^2, alpha = v / (1 - IoU + v)
V = 4 / math.pi**2 * (math.atan(2) - math.atan(0.5)) ** 2
CIOU = DIOU - V / (1 - IOU + V) * V
# widths 4 and 2 in an enclosing 4, heights 2 and 4 in an enclosing 5
EIOU = DIOU - (2 / 4) ** 2 - (2 / 5) ** 2
# offset (1, 2): sin 2a = 2 * 1 * 2 / 5 = 0.8, gamma = 2 - 0.8; shares of the hull (1/4)^2 and (2/5)^2
DISTANCE = (1 - math.exp(-1.2 / 16)) + (1 - math.exp(-1.2 * 4 / 25))
# widths and heights differ by 2 of 4 at most
SHAPE = 2 * (1 - math.exp(-0.5)) ** 4
SIOU = 1 / 7 - (DISTANCE + SHAPE) / 2
EXPECTED = {'iou': IOU, 'giou': GIOU, 'diou': DIOU, 'ciou': CIOU, 'eiou': EIOU, 'siou': SIOU}
# the IoU less each of these, as alpha-IoU raises them one by one
TERMS = {
    'iou': (),
    'giou': (0.3,),
    'diou': (5 / 41,),
    'ciou': (5 / 41, V / (1 - IOU + V) * V),
    'eiou': (5 / 41, 0.25, 0.16),
    'siou': (DISTANCE / 2, SHAPE / 2),
}


def test_forms_by_hand() -> None:
    xyxy = torch.tensor([[10.0, 20.0, 50.0, 30.0]])
    # centre ((10 + 50) / 2, (20 + 30) / 2), size (50 - 10, 30 - 20)
    assert xyxy_to_cxcywh(xyxy).tolist() == [[30.0, 25.0, 40.0, 10.0]]
    assert cxcywh_to_xyxy(torch.tensor([[30.0, 25.0, 40.0, 10.0]])).tolist() == xyxy.tolist()


def test_forms_invert_each_other() -> None:
    boxes = torch.rand(5, 7, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(xyxy_to_cxcywh(cxcywh_to_xyxy(boxes)), boxes)
    assert xyxy_to_cxcywh(torch.zeros(0, 4)).shape == (0, 4)


@pytest.mark.parametrize(('mode', 'expected'), EXPECTED.items())
def test_values_by_hand(mode: str, expected: float) -> None:
    assert paired_iou(BOX, TARGET, mode).item() == pytest.approx(expected, abs=1e-6)
    assert paired_iou(TARGET, BOX, mode).item() == pytest.approx(expected, abs=1e-6)
    assert paired_iou(BOX, BOX, mode).item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize('mode', IOU_MODES)
@pytest.mark.parametrize('power', [0.5, 2.0, 3.0])
def test_powers_by_hand(mode: str, power: float) -> None:
    expected = IOU**power - sum(term**power for term in TERMS[mode])
    assert paired_iou(BOX, TARGET, mode, power=power).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ('mode', 'theirs'),
    [
        ('giou', {'type': 'mmdet.GIoULoss'}),
        ('diou', {'type': 'mmdet.DIoULoss'}),
        # their default leaves out the minus of the distance's exponent
        ('siou', {'type': 'mmdet.SIoULoss', 'neg_gamma': True}),
    ],
)
def test_against_mmdet(mode: str, theirs: dict) -> None:
    boxes, targets = _random_pairs()
    expected = 1 - MODELS.build(theirs)(boxes, targets, reduction_override='none')
    torch.testing.assert_close(paired_iou(boxes, targets, mode), expected, atol=1e-5, rtol=1e-5)


def of_the_paper(mode: str, box: list[float], target: list[float]) -> float:
    """Each paper's formula on plain numbers, in the paper's own form."""
    x1, y1, x2, y2 = box
    u1, v1, u2, v2 = target
    w, h, u, v = x2 - x1, y2 - y1, u2 - u1, v2 - v1
    overlap = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
    union = w * h + u * v - overlap
    iou = overlap / union
    hull_w, hull_h = max(x2, u2) - min(x1, u1), max(y2, v2) - min(y1, v1)
    dx, dy = (u1 + u2 - x1 - x2) / 2, (v1 + v2 - y1 - y2) / 2
    distance = (dx**2 + dy**2) / (hull_w**2 + hull_h**2)
    if mode == 'giou':
        return iou - (hull_w * hull_h - union) / (hull_w * hull_h)
    if mode == 'diou':
        return iou - distance
    if mode == 'ciou':
        aspect = 4 / math.pi**2 * (math.atan(u / v) - math.atan(w / h)) ** 2
        return iou - distance - aspect**2 / (1 - iou + aspect)
    if mode == 'eiou':
        return iou - distance - (w - u) ** 2 / hull_w**2 - (h - v) ** 2 / hull_h**2
    if mode == 'siou':
        angle = 1 - 2 * math.sin(math.asin(abs(dy) / math.hypot(dx, dy)) - math.pi / 4) ** 2
        gamma = 2 - angle
        cost = sum(1 - math.exp(-gamma * share**2) for share in (dx / hull_w, dy / hull_h))
        shape = sum((1 - math.exp(-abs(a - b) / max(a, b))) ** 4 for a, b in ((w, u), (h, v)))
        return iou - (cost + shape) / 2
    return iou


@pytest.mark.parametrize('mode', IOU_MODES)
def test_against_the_papers_one_pair_at_a_time(mode: str) -> None:
    boxes, targets = _random_pairs()
    assert (paired_iou(boxes, targets) == 0).any() and (paired_iou(boxes, targets) > 0.2).any()
    expected = [of_the_paper(mode, *pair) for pair in zip(boxes.tolist(), targets.tolist(), strict=True)]
    assert paired_iou(boxes, targets, mode, eps=1e-12).tolist() == pytest.approx(expected, abs=1e-8)


def test_apart_boxes_by_hand() -> None:
    # unit squares with corners at (0, 0) and (3, 0): no overlap, enclosing box 4x1, diagonal^2 17, distance^2 9
    first, second = torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.tensor([3.0, 0.0, 4.0, 1.0])
    values = {mode: paired_iou(first, second, mode).item() for mode in IOU_MODES}
    # SIoU: no height between the centres, so gamma = 2, and 3 of the 4 wide: 1 - exp(-2 * 9/16)
    siou = -(1 - math.exp(-9 / 8)) / 2
    overlaps = {'iou': 0, 'giou': -(4 - 2) / 4, 'diou': -9 / 17, 'ciou': -9 / 17, 'eiou': -9 / 17, 'siou': siou}
    assert values == pytest.approx(overlaps, abs=1e-6)


@pytest.mark.parametrize('mode', [mode for mode in IOU_MODES if mode != 'ciou'])
@pytest.mark.parametrize('power', [0.5, 1.0, 3.0])
def test_gradient_against_finite_differences(mode: str, power: float) -> None:
    boxes, targets = _random_pairs()
    overlap = lambda boxes: paired_iou(boxes, targets, mode, power=power)  # noqa: E731
    assert torch.autograd.gradcheck(overlap, boxes.requires_grad_())


@pytest.mark.parametrize('power', [1.0, 3.0])
def test_ciou_gradient_holds_alpha_constant(power: float) -> None:
    boxes, targets = _random_pairs()
    iou = paired_iou(boxes, targets)
    aspect = lambda b: torch.atan((b[:, 2] - b[:, 0]) / (b[:, 3] - b[:, 1]))  # noqa: E731
    v = lambda b: 4 / math.pi**2 * (aspect(b) - aspect(targets)) ** 2  # noqa: E731
    alpha = v(boxes) / (1 - iou + v(boxes))

    def held(boxes: torch.Tensor) -> torch.Tensor:
        """The formula with alpha as it is at these boxes."""
        return paired_iou(boxes, targets, 'diou', power=power) - (alpha * v(boxes)).clamp(min=1e-7) ** power

    boxes.requires_grad_()
    assert torch.autograd.gradcheck(held, boxes)
    (expected,) = torch.autograd.grad(held(boxes).sum(), boxes)
    (actual,) = torch.autograd.grad(paired_iou(boxes, targets, 'ciou', power=power).sum(), boxes)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize('mode', IOU_MODES)
@pytest.mark.parametrize('power', [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    'box',
    [
        [1.0, 1.0, 1.0, 1.0],  # a point
        [0.0, 1.0, 4.0, 1.0],  # without height
        [1.0, 0.0, 1.0, 4.0],  # without width
        [3.0, 3.0, 1.0, 1.0],  # corners the wrong way round
        [-1e6, -1e6, 1e6, 1e6],
    ],
)
def test_boxes_without_area_are_finite(mode: str, box: list[float], power: float) -> None:
    targets = torch.tensor([[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 1.0, 1.0], box])
    boxes = torch.tensor([box] * 3, requires_grad=True)
    overlap = paired_iou(boxes, targets, mode, power=power)
    overlap.sum().backward()
    assert overlap.isfinite().all()
    assert boxes.grad.isfinite().all()
    assert (overlap <= 1 + 1e-6).all()


@pytest.mark.parametrize('mode', IOU_MODES)
@pytest.mark.parametrize('power', [0.5, 1.0, 3.0])
@pytest.mark.parametrize(
    'box',
    [
        [1.0, 2.0, 4.0, 8.0],  # the target itself
        [4.0, 2.0, 6.0, 8.0],  # touching along a side
        [4.0, 8.0, 5.0, 9.0],  # touching in a corner
        [2.0, 4.0, 3.0, 6.0],  # inside, with the same centre and aspect
        [1.0, 2.0, 4.0, 2.0],  # its upper side
        [1.0, 2.0, 1.0001, 2.0001],  # almost a point
    ],
)
def test_borderline_boxes_are_finite(mode: str, box: list[float], power: float) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        boxes = torch.tensor([box], dtype=dtype, requires_grad=True)
        overlap = paired_iou(boxes, torch.tensor([[1.0, 2.0, 4.0, 8.0]], dtype=dtype), mode, power=power)
        overlap.sum().backward()
        assert overlap.isfinite().all()
        assert boxes.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_half_precision_is_raised(dtype: torch.dtype) -> None:
    # areas of 250,000 px^2 overflow float16; overlap 250x500, union 375,000: IoU 1/3
    boxes, targets = torch.tensor([[0.0, 0, 500, 500]]), torch.tensor([[250.0, 0, 750, 500]])
    overlap = paired_iou(boxes.to(dtype), targets.to(dtype))
    assert overlap.dtype == torch.float32
    assert overlap.item() == pytest.approx(1 / 3, abs=0.01)


def test_float32_under_autocast() -> None:
    boxes, targets = (pair.float() for pair in _random_pairs())
    with torch.autocast('cpu', dtype=torch.bfloat16):
        inside = paired_iou(boxes, targets, 'ciou')
    assert torch.equal(inside, paired_iou(boxes, targets, 'ciou'))


def test_empty_and_broadcast() -> None:
    assert paired_iou(torch.zeros(0, 4), torch.zeros(0, 4), 'ciou').shape == (0,)
    pairs = paired_iou(torch.stack([BOX, TARGET])[:, None], torch.stack([BOX, TARGET])[None])
    torch.testing.assert_close(pairs, torch.tensor([[1, IOU], [IOU, 1]]))


def test_unknown_mode() -> None:
    with pytest.raises(ValueError, match=r"one of \('iou', 'giou', 'diou', 'ciou', 'eiou', 'siou'\), got 'miou'"):
        paired_iou(BOX, TARGET, 'miou')


def test_power_without_sense() -> None:
    with pytest.raises(ValueError, match='power must be above 0, got 0'):
        paired_iou(BOX, TARGET, power=0)


def _random_pairs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    boxes, targets = torch.rand(2, 20, 4, generator=generator, dtype=torch.float64)
    return cxcywh_to_xyxy(boxes + 0.1), cxcywh_to_xyxy(targets + 0.1)


SIDES_WH = np.array([640.0, 480.0])


def random_boxes(count: int, low: float, high: float, seed: int = 0) -> np.ndarray:
    """(count, 4) xywh inside of an image of 640 x 480 px, sides from ``low`` to ``high`` px."""
    rng = np.random.default_rng(seed)
    wh = rng.uniform(low, high, (count, 2))
    return np.concatenate([rng.uniform(0, 1, (count, 2)) * (SIDES_WH - wh), wh], 1)


def suspect(boxes: np.ndarray, keys: np.ndarray | None = None) -> list[tuple[bool, str]]:
    keys = np.stack([np.arange(len(boxes)), np.zeros(len(boxes))], 1).astype(int) if keys is None else keys
    return suspect_boxes(boxes, np.tile(SIDES_WH, (len(boxes), 1)), keys)


def as_corners(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)


def as_centres(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2] + boxes[:, 2:] / 2, boxes[:, 2:]], 1)


@pytest.mark.parametrize(('low', 'high'), [(5, 30), (20, 120), (100, 400)])
@pytest.mark.parametrize('seed', range(3))
def test_formats_are_distinguished(low, high, seed):
    boxes = random_boxes(500, low, high, seed)
    assert suspect(boxes) == []
    ((is_error, text),) = suspect(as_corners(boxes))
    assert is_error and 'read as corners (x1, y1, x2, y2), 500 of 500 lie inside' in text
    if low > 5:  # of small boxes so few are near the border that none can tell
        ((is_error, text),) = suspect(as_centres(boxes))
        assert is_error and 'read as (centre x, centre y, width, height), 500 of 500 lie inside' in text
    ((is_error, text),) = suspect(boxes[:, [1, 0, 3, 2]])
    assert is_error and 'read as (y, x, height, width), 500 of 500 lie inside' in text
    ((is_error, text),) = suspect(boxes / np.tile(SIDES_WH, 2))
    assert is_error and 'from 0 to 1: they seem to be relative' in text


def test_boxes_drawn_a_little_over_the_border_are_no_other_format():
    """All boxes touch a border and reach 20 px beyond it, on all four sides alike."""
    boxes = random_boxes(400, 60, 120)
    boxes[:100, 0], boxes[100:200, 1] = -20, -20
    boxes[200:300, 0], boxes[300:, 1] = 660 - boxes[200:300, 2], 500 - boxes[300:, 3]
    ((is_error, text),) = suspect(boxes)
    assert not is_error and text.startswith('400 of 400 boxes (100%) reach beyond their image and are clipped')
    boxes[20:100, 0], boxes[120:, :2] = 0, 0  # 40 of 400 are 10 %, the least that is worth a warning
    assert len(suspect(boxes)) == 1
    boxes[:2, 0] = 0
    assert suspect(boxes) == []


def test_repeated_boxes():
    """3 of 1003 boxes are 0.3 %; of other categories or images they are none."""
    boxes = random_boxes(1000, 20, 50)
    keys = np.stack([np.arange(1000) // 10, np.zeros(1000)], 1).astype(int)
    again = np.concatenate([boxes, boxes[:3]])
    ((is_error, text),) = suspect(again, np.concatenate([keys, keys[:3]]))
    assert not is_error and text.startswith('3 of 1003 boxes (0.3%) repeat another box')
    for shift in ((1, 0), (0, 1)):
        assert suspect(again, np.concatenate([keys, keys[:3] + shift])) == []
    ((is_error, text),) = suspect(np.concatenate([boxes, boxes]), np.concatenate([keys, keys]))
    assert is_error and text.startswith('1000 of 2000 boxes (50.0%)')


def test_nothing_to_suspect():
    assert suspect(np.zeros((0, 4))) == []
    assert suspect(np.full((3, 4), np.nan)) == []
