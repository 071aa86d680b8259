"""What YOLOv3's head changes in YOLOv5's, and its predictions; the losses are held in test_golden_yolov3.py."""

import math

import pytest
import torch
from mmengine.structures import InstanceData
from pred_maps import merge_maps

from mmyolo_ext.models.heads import YOLOv3Head

SIZE_HW = (64, 96)
META = {'img_shape': SIZE_HW, 'batch_input_shape': SIZE_HW, 'ori_shape': SIZE_HW, 'scale_factor': (1.0, 1.0)}


def build_head(**kwargs) -> YOLOv3Head:
    torch.manual_seed(0)
    return YOLOv3Head(**{'num_classes': 3, 'in_channels': [8, 8, 8], **kwargs})


def features(num_images: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(num_images, 8, 64 // s, 96 // s, generator=generator) for s in (8, 16, 32)]


TRUTH = InstanceData(bboxes=torch.tensor([[8.0, 12, 40, 52], [50, 20, 86, 40]]), labels=torch.tensor([0, 2]))
NONE = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())


def test_default_gains_at_the_nominal_task() -> None:
    head = build_head(num_classes=80)
    assert set(head.gains.values()) == {1}
    assert [loss.loss_weight for loss in (head.loss_obj, head.loss_cls)] == [64.3, 37.4]
    assert head.quality_mode == 'giou'
    assert head.obj_balance.weights.tolist() == [1, 1, 1]
    # 3 of 80 classes, and a quarter of the area of 640 x 640
    assert build_head(input_size=320).gains == pytest.approx({'loss_cls': 3 / 80, 'loss_bbox': 1, 'loss_obj': 0.25})


def test_level_weights_can_be_given() -> None:
    assert build_head(obj_level_weights=[4.0, 1.0, 0.4]).obj_balance.weights.tolist() == pytest.approx([4, 1, 0.4])
    two = {'type': 'mmdet.YOLOAnchorGenerator', 'base_sizes': [[(10, 14)], [(81, 82)]], 'strides': [16, 32]}
    assert build_head(in_channels=[8, 8], prior_generator=two).obj_balance.weights.tolist() == [1, 1]


def test_loss_does_not_grow_with_the_batch() -> None:
    head = build_head()
    feats = features(1)
    one = head.loss_by_feat(*head(feats), [TRUTH], [META])
    twice = head.loss_by_feat(*head([torch.cat([level, level]) for level in feats]), [TRUTH] * 2, [META] * 2)
    for name in ('loss_cls', 'loss_bbox', 'loss_obj'):
        assert twice[name].item() == pytest.approx(one[name].item(), rel=1e-5)


def test_batches_that_are_added_up_count_for_their_share() -> None:
    feats = features(1)
    head, adding = build_head(), build_head(nominal_batch_size=64)
    mean = head.loss_by_feat(*head(feats), [TRUTH], [META])
    # a batch of 4 equal images is 4 of 64: 16 such batches make a step
    batch = [torch.cat([level] * 4) for level in feats]
    share = adding.loss_by_feat(*adding(batch), [TRUTH] * 4, [META] * 4)
    for name in ('loss_cls', 'loss_bbox', 'loss_obj'):
        assert share[name].item() * 16 == pytest.approx(mean[name].item(), rel=1e-5)


def test_no_boxes_give_every_parameter_a_finite_gradient() -> None:
    head = build_head()
    losses = head.loss_by_feat(*head(features(2)), [NONE, NONE], [META] * 2)
    assert losses['loss_cls'].item() == losses['loss_bbox'].item() == 0
    sum(losses[f'loss_{term}'] for term in ('cls', 'bbox', 'obj')).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_bias_start() -> None:
    head = build_head()
    head.init_weights()
    for conv, stride in zip(head.convs_pred, (8, 16, 32), strict=True):
        bias = conv.bias.detach().view(3, 8)
        assert bias[:, 4].tolist() == pytest.approx([math.log(8 / (640 / stride) ** 2)] * 3)
        assert bias[:, 5:].flatten().tolist() == pytest.approx([math.log(0.6 / 2.01)] * 9)


def test_a_box_by_hand() -> None:
    head = build_head().eval()
    cls_scores = [torch.full((1, 9, 64 // s, 96 // s), -12.0) for s in (8, 16, 32)]
    bbox_preds = [torch.zeros(1, 12, 64 // s, 96 // s) for s in (8, 16, 32)]
    objectnesses = [torch.full((1, 3, 64 // s, 96 // s), -12.0) for s in (8, 16, 32)]
    # level 0, anchor 1 (16 x 30) in row 3 and column 5: its width grows by exp(ln 2) = 2
    objectnesses[0][0, 1, 3, 5] = 12
    cls_scores[0][0, 3 + 2, 3, 5] = 12
    bbox_preds[0][0, 4 + 2, 3, 5] = math.log(2)
    (found,) = head.predict_by_feat(merge_maps(cls_scores, bbox_preds, objectnesses), [META], rescale=True)
    # centre (5.5 * 8, 3.5 * 8) = (44, 28), size 32 x 30
    assert found.bboxes[0].tolist() == pytest.approx([28, 13, 60, 43], abs=1e-4)
    assert found.labels[0] == 2
