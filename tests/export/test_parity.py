"""The check itself: what it lets pass and what it does not."""

import numpy as np
import pytest

from mmyolo_ext.export.parity import EXACT, Difference, compare_detections, largest, pair
from mmyolo_ext.export.runtime import Detections

RULES = {'score_thr': 0.1, 'max_per_img': 3}


def detections(*rows: tuple) -> Detections:
    """Of rows (x1, score, label): boxes of 10 px."""
    boxes = np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32).reshape(-1, 4)
    return Detections(boxes, np.array([row[1] for row in rows]), np.array([row[2] for row in rows], np.int64))


def test_the_largest_difference():
    assert largest(np.array([1.0, 2.0]), np.array([1.5, 1.0])) == 1.0
    assert largest(np.zeros(0), np.zeros(0)) == 0.0
    assert largest(np.zeros(2), np.zeros(3)) == largest(np.zeros(1), np.array([np.nan])) == np.inf


def test_detections_of_another_order_are_paired():
    one = detections((0, 0.9, 0), (100, 0.5, 1))
    other = detections((100.05, 0.50002, 1), (0, 0.9, 0))
    found = compare_detections(one, other, RULES, EXACT)
    assert found.alone == 0 and found.within(EXACT)
    assert found.boxes_px == pytest.approx(0.05, abs=1e-5) and found.scores == pytest.approx(2e-5)


@pytest.mark.parametrize(
    'other',
    [
        detections((0, 0.9, 0)),
        detections((0, 0.9, 0), (100, 0.5, 0)),
        detections((0, 0.9, 0), (105, 0.5, 1)),
        detections((0, 0.9, 0), (100, 0.6, 1)),
        detections((0, 0.9, 0), (100, 0.5, 1), (200, 0.3, 1)),
    ],
)
def test_a_missing_other_or_further_detection_fails(other):
    found = compare_detections(detections((0, 0.9, 0), (100, 0.5, 1)), other, RULES, EXACT)
    assert found.alone > 0 and not found.within(EXACT)


def test_rounding_may_decide_at_the_threshold_and_at_the_limit():
    at_threshold = detections((0, 0.9, 0), (100, 0.10004, 1))
    assert compare_detections(at_threshold, detections((0, 0.9, 0)), RULES, EXACT).within(EXACT)
    # of two equal scores either may be the last of three
    one = detections((0, 0.9, 0), (50, 0.8, 0), (100, 0.5, 1))
    other = detections((0, 0.9, 0), (50, 0.8, 0), (200, 0.5, 1))
    assert compare_detections(one, other, RULES, EXACT).within(EXACT)
    assert not compare_detections(one, other, {**RULES, 'max_per_img': 300}, EXACT).within(EXACT)


def test_nothing_against_nothing_is_equal():
    assert compare_detections(detections(), detections(), RULES, EXACT) == Difference(0.0, 0.0, 0)
    assert not Difference(float('nan'), 0.0).within(EXACT)


def test_pairing_asks_one_side_only():
    others = detections((0, 0.9, 0), (1, 0.8, 0), (100, 0.5, 1))
    assert pair(detections((1, 0.8, 0)), others, 0.1, EXACT) == Difference(0.0, 0.0, 0)
    assert pair(detections((1, 0.8, 1)), others, 0.1, EXACT).alone == 1
