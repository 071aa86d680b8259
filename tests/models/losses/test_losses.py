"""The losses by hand, with mmdet's calling convention, and inside an mmdet head."""

import math

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS

import mmyolo_ext  # noqa: F401  (registers the scope)
from mmyolo_ext.models.losses import BCELoss, IoULoss

BOXES = torch.tensor([[0.0, 0, 2, 2], [0, 0, 4, 4]])
TARGETS = torch.tensor([[1.0, 0, 3, 2], [0, 0, 4, 4]])
# IoU of the first pair 2 / 6, of the second 1
IOU_LOSSES = [2 / 3, 0.0]


def test_iou_loss_reductions() -> None:
    loss = IoULoss(mode='iou', loss_weight=3.0)
    assert loss(BOXES, TARGETS).item() == pytest.approx(3 * (2 / 3) / 2)
    assert loss(BOXES, TARGETS, reduction_override='sum').item() == pytest.approx(3 * 2 / 3)
    assert loss(BOXES, TARGETS, reduction_override='none').tolist() == pytest.approx([3 * v for v in IOU_LOSSES])
    assert loss(BOXES, TARGETS, avg_factor=8).item() == pytest.approx(3 * (2 / 3) / 8)
    weight = torch.tensor([0.5, 1.0])
    assert loss(BOXES, TARGETS, weight, avg_factor=1).item() == pytest.approx(3 * 0.5 * 2 / 3)
    assert loss(BOXES, TARGETS, weight[:, None].expand(-1, 4), avg_factor=1).item() == pytest.approx(1.0)


def test_iou_loss_default_is_ciou() -> None:
    # apart unit squares: 1 - CIoU = 1 + 9/17, see test_boxes
    loss = IoULoss()(torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[3.0, 0, 4, 1]]))
    assert loss.item() == pytest.approx(1 + 9 / 17)


def test_iou_loss_without_boxes() -> None:
    nothing = torch.zeros(0, 4, requires_grad=True)
    loss = IoULoss()(nothing, torch.zeros(0, 4), avg_factor=1)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize('bad', [{'mode': 'nearly'}, {'reduction': 'median'}])
def test_iou_loss_arguments(bad: dict) -> None:
    with pytest.raises(ValueError, match='must be one of'):
        IoULoss(**bad)


def test_bce_by_hand() -> None:
    logits = torch.tensor([[0.0, math.log(3)]])  # sigma = 1/2, 3/4
    targets = torch.tensor([[1.0, 0.5]])
    elements = [math.log(2), -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)]
    assert BCELoss()(logits, targets).item() == pytest.approx(sum(elements) / 2)
    plain = BCELoss(loss_weight=2.0)(logits, targets, reduction_override='none')
    assert plain[0].tolist() == pytest.approx([2 * value for value in elements])
    # a weight of 3 on the positive part alone
    weighted = BCELoss(pos_weight=3.0)(logits, targets, reduction_override='none')
    assert weighted[0].tolist() == pytest.approx([3 * math.log(2), -3 * 0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)])
    per_class = BCELoss(pos_weight=[3.0, 1.0])(logits, targets, reduction_override='none')
    assert per_class[0].tolist() == pytest.approx([3 * math.log(2), elements[1]])


def test_bce_of_labels_with_class_weights() -> None:
    # every element is ln 2; background is label 2 of two classes; the classes weigh 1 and 3, the positive part 2
    loss = BCELoss(class_weight=[1.0, 3.0], pos_weight=2.0)
    actual = loss(torch.zeros(3, 2), torch.tensor([0, 1, 2]), reduction_override='none')
    expected = torch.tensor([[2.0, 3.0], [1.0, 6.0], [1.0, 3.0]]) * math.log(2)
    torch.testing.assert_close(actual, expected)
    # with a quality of 1/2 the positive part is half of the element
    actual = loss(torch.zeros(1, 2), (torch.tensor([1]), torch.tensor([0.5])), reduction_override='none')
    torch.testing.assert_close(actual, torch.tensor([[1.0, 3 * (0.5 * 2 + 0.5)]]) * math.log(2))


def test_bce_options() -> None:
    with pytest.raises(ValueError, match='exclusive classes'):
        BCELoss(use_sigmoid=False)
    with pytest.raises(RuntimeError, match='must match the size'):
        BCELoss(class_weight=[1.0, 2.0])(torch.zeros(1, 3), torch.zeros(1, 3))


def test_bce_is_float32_and_takes_weights() -> None:
    logits = torch.zeros(2, 3, dtype=torch.float16)
    loss = BCELoss()(logits, torch.ones(2, 3), weight=torch.tensor([[1.0], [0.0]]), avg_factor=3)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(2))


def test_bce_rejects_other_shapes() -> None:
    with pytest.raises(ValueError, match=r'logits of shape \(4, 3\) .* got torch.float32 of shape \(4,\)'):
        BCELoss()(torch.zeros(4, 3), torch.zeros(4))


def test_a_pos_weight_does_not_enter_checkpoints() -> None:
    assert BCELoss(pos_weight=2.0).state_dict() == {}


def test_iou_loss_in_an_mmdet_head() -> None:
    head = MMDET_MODELS.build(
        {
            'type': 'mmdet.FCOSHead',
            'num_classes': 3,
            'in_channels': 8,
            'feat_channels': 8,
            'stacked_convs': 1,
            'strides': (8, 16),
            'regress_ranges': ((-1, 64), (64, 1e8)),
            'loss_bbox': {'type': 'mmyolo_ext.IoULoss', 'mode': 'giou'},
            'norm_cfg': None,
        }
    )
    from mmengine.structures import InstanceData

    outputs = head((torch.rand(1, 8, 8, 8), torch.rand(1, 8, 4, 4)))
    truth = InstanceData(bboxes=torch.tensor([[4.0, 4, 40, 50]]), labels=torch.tensor([1]))
    losses = head.loss_by_feat(*outputs, [truth], [{'img_shape': (64, 64)}])
    sum(losses.values()).backward()
    assert isinstance(head.loss_bbox, IoULoss)
    assert losses['loss_bbox'].item() > 0
    assert all(p.grad is None or p.grad.isfinite().all() for p in head.parameters())
