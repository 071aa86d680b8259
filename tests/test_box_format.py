"""Boxes in another format than COCO's are recognised by how many reach beyond their image; good ones pass."""

import numpy as np
import pytest

from mmyolo_ext.boxes import suspect_boxes

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
def test_formats_are_told_apart(low, high, seed):
    boxes = random_boxes(500, low, high, seed)
    assert suspect(boxes) == []
    ((is_error, text),) = suspect(as_corners(boxes))
    assert is_error and 'read as corners (x1, y1, x2, y2), 500 of 500 lie inside' in text
    if low > 5:  # of small boxes so few are near the border that none can tell
        ((is_error, text),) = suspect(as_centres(boxes))
        assert is_error and 'read as (centre x, centre y, width, height), 500 of 500 lie inside' in text
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
