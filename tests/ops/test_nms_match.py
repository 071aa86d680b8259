"""NMS with the boxes each kept one has dropped."""

import torch
from mmcv.ops import nms_match


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


def test_empty_and_one() -> None:
    assert nms_match(torch.zeros(0, 5), 0.5) == []
    assert [group.tolist() for group in nms_match(torch.tensor([[0.0, 0, 1, 1, 0.5]]), 0.5)] == [[0]]
