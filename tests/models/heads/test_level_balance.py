"""Weights of the levels, fixed and adapting."""

import pytest
import torch
from mmengine.structures import InstanceData

from mmyolo_ext.models.heads import YOLOv5Head
from mmyolo_ext.models.heads.yolov5_head import LevelBalance


@pytest.mark.parametrize(
    ('strides', 'weights'),
    [
        ((16, 32), [1.0, 0.4]),
        ((8, 16, 32), [4.0, 1.0, 0.4]),
        ((8, 16, 32, 64), [4.0, 1.0, 0.25, 0.06]),
        ((8, 16, 32, 64, 128), [4.0, 1.0, 0.25, 0.06, 0.02]),
    ],
)
def test_auto_weights(strides: tuple[int, ...], weights: list[float]) -> None:
    assert LevelBalance('auto', strides).weights.tolist() == pytest.approx(weights)


def test_weighted_sum() -> None:
    losses = torch.tensor([1.0, 2.0, 10.0], requires_grad=True)
    total = LevelBalance((3.0, 2.0, 0.5), (8, 16, 32))(losses)
    assert total.item() == pytest.approx(3 + 4 + 5)
    total.backward()
    assert losses.grad.tolist() == [3.0, 2.0, 0.5]


def test_adapts_in_training_alone() -> None:
    balance = LevelBalance('auto', (32, 16, 8), auto_balance=True)
    losses = torch.tensor([0.1, 0.5, 2.0], requires_grad=True)
    balance.eval()(losses)
    assert balance.weights.tolist() == pytest.approx([4.0, 1.0, 0.4])
    balance.train()(losses).backward()
    assert losses.grad.tolist() == pytest.approx([4.0, 1.0, 0.4])  # those of this call, not the adapted ones
    # weight <- 0.9999 weight + 0.0001 / loss, over that of stride 16, here in the middle
    middle = 0.9999 + 0.0001 / 0.5
    expected = [(0.9999 * 4 + 0.0001 / 0.1) / middle, 1.0, (0.9999 * 0.4 + 0.0001 / 2) / middle]
    assert balance.weights.tolist() == pytest.approx(expected, abs=1e-6)


def test_adapts_with_the_loss_before_its_gain() -> None:
    balance = LevelBalance('auto', (8, 16, 32), auto_balance=True)
    assert balance(torch.tensor([0.3, 1.5, 6.0]), gain=3.0).item() == pytest.approx(4 * 0.3 + 1.5 + 0.4 * 6)
    # losses of 0.1, 0.5 and 2 before the gain
    middle = 0.9999 + 0.0001 / 0.5
    expected = [(0.9999 * 4 + 0.0001 / 0.1) / middle, 1.0, (0.9999 * 0.4 + 0.0001 / 2) / middle]
    assert balance.weights.tolist() == pytest.approx(expected, abs=1e-6)


def test_without_a_gain_nothing_adapts() -> None:
    balance = LevelBalance('auto', (8, 16, 32), auto_balance=True)
    balance(torch.zeros(3), gain=0.0)
    assert balance.weights.tolist() == pytest.approx([4.0, 1.0, 0.4])


@pytest.mark.parametrize(
    'wrap',
    [
        lambda gain: {'type': 'mmyolo_ext.BCELoss', 'loss_weight': gain},
        lambda gain: {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True, 'loss_weight': gain},
        lambda gain: {'type': 'mmyolo_ext.FocalLoss', 'loss': {'type': 'mmyolo_ext.BCELoss', 'loss_weight': gain}},
    ],
)
def test_the_gain_of_the_objectness_loss_changes_no_level_weight(wrap) -> None:
    weights = []
    for gain in (1.0, 8.0):
        torch.manual_seed(0)
        head = YOLOv5Head(2, [4, 4, 4], loss_obj=wrap(gain), auto_balance=True)
        feats = [torch.randn(1, 4, size, size) for size in (8, 4, 2)]
        truth = InstanceData(bboxes=torch.tensor([[4.0, 4, 30, 40]]), labels=torch.tensor([1]))
        head.loss_by_feat(*head(feats), [truth], [{}])
        weights.append(head.obj_balance.weights)
    assert not torch.equal(weights[0], torch.tensor([4.0, 1.0, 0.4]))
    torch.testing.assert_close(weights[0], weights[1], rtol=1e-6, atol=0)


def test_survives_a_loss_of_zero() -> None:
    balance = LevelBalance('auto', (8, 16, 32), auto_balance=True)
    balance(torch.zeros(3))
    assert balance.weights.isfinite().all()


def test_state_only_when_adapting() -> None:
    assert LevelBalance('auto', (8, 16, 32)).state_dict() == {}
    adapting = LevelBalance('auto', (8, 16, 32), auto_balance=True)
    adapting(torch.tensor([0.1, 0.5, 2.0]))
    resumed = LevelBalance('auto', (8, 16, 32), auto_balance=True)
    resumed.load_state_dict(adapting.state_dict())
    assert torch.equal(resumed.weights, adapting.weights)


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (((1.0, 2.0), (8, 16, 32)), 'each of the 3 levels'),
        (('auto', (8, 16, 32, 64, 128, 256)), 'up to five levels. or one number for each of the 6'),
        (('auto', (8, 32), True), 'stride 16'),
        (('even', (8, 16, 32)), "got 'even'"),
    ],
)
def test_bad_arguments(arguments: tuple, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LevelBalance(*arguments)


def test_gains_follow_the_task() -> None:
    # class 20/80; objectness (320/640)^2
    assert YOLOv5Head(20, input_size=320).gains == pytest.approx({'loss_cls': 0.25, 'loss_bbox': 1, 'loss_obj': 0.25})
    # four levels: all by 3/4; a rectangle by its area, 320 * 1280 = 640^2
    p6 = {'type': 'mmdet.YOLOAnchorGenerator', 'base_sizes': [[(8, 8)]] * 4, 'strides': [8, 16, 32, 64]}
    head = YOLOv5Head(80, [4] * 4, p6, input_size=(320, 1280))
    assert set(head.gains.values()) == {0.75}
