"""Sums of box losses: the terms, their names, the total."""

import pytest
import torch

from mmyolo_ext.models.losses import IoULoss, NWDLoss, SumLoss

BOXES = torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 4]])
TARGETS = torch.tensor([[1.0, 0, 3, 2], [0, 0, 4, 5]])
IOU = {'type': 'mmyolo_ext.IoULoss', 'mode': 'giou', 'loss_weight': 2.0}
NWD = {'type': 'mmyolo_ext.NWDLoss', 'loss_weight': 0.5}


def test_terms_and_sum() -> None:
    loss = SumLoss([IOU, NWD])
    parts = [IoULoss('giou', loss_weight=2.0), NWDLoss(loss_weight=0.5)]
    weight = torch.tensor([1.0, 0.5])
    for kwargs in ({}, {'avg_factor': 3.0}, {'weight': weight, 'avg_factor': 3.0}, {'reduction_override': 'none'}):
        expected = [part(BOXES, TARGETS, **kwargs) for part in parts]
        torch.testing.assert_close(loss(BOXES, TARGETS, **kwargs), sum(expected))


def test_names_are_distinct() -> None:
    losses = [IOU, NWD, {'type': 'mmdet.L1Loss'}, IOU, {'type': 'mmyolo_ext.RepulsionLoss'}]
    loss = SumLoss(losses)
    assert loss.names == ('loss_bbox', 'loss_nwd', 'loss_bbox_2', 'loss_bbox_3', 'loss_rep')
    assert set(loss.wants) == {'stride', 'crowd', 'mean_over_ranks'}


def test_no_loss() -> None:
    with pytest.raises(ValueError, match='at least one loss'):
        SumLoss([])
