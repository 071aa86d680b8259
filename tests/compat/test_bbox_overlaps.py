"""Overlaps of boxes, by hand."""

import pytest
import torch
from mmcv.ops import bbox_overlaps

A = torch.tensor([[0.0, 0, 10, 10], [20, 20, 30, 40]])
B = torch.tensor([[5.0, 0, 10, 10], [20, 30, 30, 50], [0, 0, 10, 10]])


@pytest.mark.parametrize(
    ('mode', 'offset', 'expected'),
    [
        # 50 / (100 + 50 - 50); 100 / (200 + 200 - 100)
        ('iou', 0, [[1 / 2, 0, 1], [0, 1 / 3, 0]]),
        # 50 / 100; 100 / 200
        ('iof', 0, [[1 / 2, 0, 1], [0, 1 / 2, 0]]),
        # 6 * 11 / (121 + 66 - 66); 11 * 11 / (11 * 21 + 11 * 21 - 121)
        ('iou', 1, [[66 / 121, 0, 1], [0, 121 / 341, 0]]),
    ],
)
def test_by_hand(mode: str, offset: int, expected: list) -> None:
    assert torch.allclose(bbox_overlaps(A, B, mode, offset=offset), torch.tensor(expected))
    pairs = bbox_overlaps(A, B[:2], mode, aligned=True, offset=offset)
    assert torch.allclose(pairs, torch.tensor([expected[0][0], expected[1][1]]))


def test_empty() -> None:
    assert bbox_overlaps(A, torch.zeros(0, 4)).shape == (2, 0)
