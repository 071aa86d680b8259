"""Votes of views, on boxes made by hand and against a loop over boxes."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmyolo_ext.models.detectors.view_votes import vote

CAT, DOG = 0, 1


def seen(*rows: tuple) -> InstanceData:
    """A view, from rows (x1, y1, x2, y2, score, label)."""
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return InstanceData(bboxes=table[:, :4], scores=table[:, 4], labels=table[:, 5].long())


def rows_of(found: InstanceData) -> list[tuple]:
    return [
        (*box, score, label)
        for box, score, label in zip(*(found[name].tolist() for name in ('bboxes', 'scores', 'labels')), strict=True)
    ]


def test_two_views_of_two_classes_and_a_lonely_box():
    first = seen((0, 0, 10, 10, 0.6, CAT), (0, 0, 10, 10, 0.2, DOG), (50, 0, 60, 10, 0.5, CAT))
    second = seen((0, 0, 10, 12, 0.2, CAT), (0, 0, 12, 10, 0.4, DOG))
    # IoU of 10 x 10 and 10 x 12: 100 / 120 = 0.83. Cats: y2 = (0.6 x 10 + 0.2 x 12) / 0.8 = 8.4 / 0.8 = 10.5, score
    # (0.6 + 0.2) / 2. Dogs: x2 = (0.2 x 10 + 0.4 x 12) / 0.6 = 6.8 / 0.6, score (0.2 + 0.4) / 2. Alone: 0.5 / 2.
    expected = [(0, 0, 10, 10.5, 0.4, CAT), (0, 0, 6.8 / 0.6, 10, 0.3, DOG), (50, 0, 60, 10, 0.25, CAT)]
    for got, wanted in zip(rows_of(vote([first, second], 0.65)), expected, strict=True):
        assert got == pytest.approx(wanted)


def test_the_order_is_that_of_the_mean_scores():
    # 0.8 in one of two views is 0.4; 0.5 and 0.6 are 0.55
    first = seen((50, 0, 60, 10, 0.8, CAT), (0, 0, 10, 10, 0.5, CAT))
    second = seen((0, 0, 10, 10, 0.6, CAT))
    assert [row[0] for row in rows_of(vote([first, second], 0.65))] == [0, 50]


def test_a_box_votes_once_for_the_one_it_overlaps_most():
    # two objects 4 px apart, each 20 wide: IoU 16 / 24 = 0.67; a third box 1 px from the left one, IoU 19 / 21 = 0.90,
    # and 3 px from the right one, 17 / 23 = 0.74: above the limit of 0.7 on both sides
    first = seen((0, 0, 20, 20, 0.6, CAT), (4, 0, 24, 20, 0.96, CAT))
    second = seen((1, 0, 21, 20, 0.3, CAT))
    right, left = rows_of(vote([first, second], 0.7))
    assert right == pytest.approx((4, 0, 24, 20, 0.48, CAT))
    # x1 (0.6 x 0 + 0.3 x 1) / 0.9 = 1 / 3, score (0.6 + 0.3) / 2
    assert left == pytest.approx((1 / 3, 0, 20 + 1 / 3, 20, 0.45, CAT))


def test_a_view_has_one_voice_in_the_score_and_each_box_one_in_the_place():
    # at the border a view may keep two boxes of one object: the better gives its score
    first = seen((0, 0, 20, 20, 0.8, CAT), (0, 0, 20, 16, 0.4, CAT))
    second = seen((0, 0, 20, 20, 0.6, CAT))
    (found,) = rows_of(vote([first, second], 0.65))
    # y2 (0.8 x 20 + 0.4 x 16 + 0.6 x 20) / 1.8 = 34.4 / 1.8; score (0.8 + 0.6) / 2
    assert found == pytest.approx((0, 0, 20, 34.4 / 1.8, 0.7, CAT))


def test_lonely_boxes_and_those_without_area_keep_their_place_to_the_last_bit():
    flat, odd = (0.0, 0.1, 0.0, 20.3, 0.3, CAT), (0.1, 0.2, 20.7, 30.9, 0.7, CAT)
    found = vote([seen(flat, odd), seen()], 0.65)
    assert torch.equal(found.bboxes, seen(odd, flat).bboxes)
    assert torch.equal(found.scores, seen(odd, flat).scores / 2)
    (silent,) = rows_of(vote([seen((0, 0, 1, 1, 0.0, CAT))], 0.65))
    assert silent == (0, 0, 1, 1, 0, CAT)


def test_views_without_a_box():
    found = vote([seen(), seen()], 0.65)
    assert found.bboxes.shape == (0, 4) and found.scores.shape == (0,) and found.labels.dtype == torch.long


@pytest.mark.parametrize('seed', range(3))
def test_it_is_what_a_loop_over_boxes_gives(seed):
    generator = torch.Generator().manual_seed(seed)
    views = [random_view(generator) for _ in range(4)]
    found = vote(views, 0.5)
    expected = by_loop([rows_of(view) for view in views], 0.5)
    assert 20 < len(expected) < sum(map(len, views)) / 2
    for got, wanted in zip(rows_of(found), expected, strict=True):
        assert got == pytest.approx(wanted, rel=1e-4, abs=1e-3)


def random_view(generator: torch.Generator) -> InstanceData:
    """Blurred sights of a row of 40 objects that overlap their neighbours, two in three of them seen."""
    number = torch.arange(40.0)
    boxes = torch.stack([number * 9, number % 3, number * 9 + 20, number % 3 + 30], dim=1)
    boxes = boxes + torch.randn(40, 4, generator=generator)
    keep = torch.rand(40, generator=generator) < 0.66
    return InstanceData(
        bboxes=boxes[keep], scores=torch.rand(40, generator=generator)[keep], labels=(number % 2).long()[keep]
    )


def by_loop(views: list[list[tuple]], limit: float) -> list[tuple]:
    """The definition, box by box."""
    boxes = sorted(((*row, view) for view, rows in enumerate(views) for row in rows), key=lambda row: -row[4])
    best, voters = [], {}
    for row in boxes:
        if all(row[5] != other[5] or iou(row, other) <= limit for other in best):
            best.append(row)
            voters[row] = [row]
    for row in boxes:
        if row not in voters:
            voters[max((other for other in best if other[5] == row[5]), key=lambda other: iou(row, other))].append(row)
    merged = []
    for chosen in best:
        votes = voters[chosen]
        weight = sum(row[4] for row in votes)
        box = [sum(row[4] * row[side] for row in votes) / weight for side in range(4)]
        score = sum(max((row[4] for row in votes if row[6] == view), default=0) for view in range(len(views)))
        merged.append((*box, score / len(views), chosen[5]))
    return sorted(merged, key=lambda row: -row[4])


def iou(one: tuple, other: tuple) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    inside = max(width, 0) * max(height, 0)
    return inside / (sum((row[2] - row[0]) * (row[3] - row[1]) for row in (one, other)) - inside)
