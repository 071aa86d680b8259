"""Our losses in mmdet's heads: each of the family, one step in each of five heads, with finite gradients."""

from typing import Any

import pytest
import torch
from mmdet.registry import MODELS
from mmengine.structures import InstanceData
from torch import Tensor, nn

import mmyolo_ext  # noqa: F401  (registers the scope)
from mmyolo_ext.models.losses.box_losses import LOSS_MODES

NUM_CLASSES = 3
STRIDES = (8, 16)
SIZE_HW = (64, 96)
COMMON = {'num_classes': NUM_CLASSES, 'in_channels': 8, 'feat_channels': 8, 'stacked_convs': 1}
ANCHORS = {'type': 'mmdet.AnchorGenerator', 'ratios': [1.0], 'octave_base_scale': 4, 'scales_per_octave': 1}
# what the configs of these two write, unlike their base class's defaults
JOINT_QUALITY = {
    'loss_cls': {'type': 'mmdet.QualityFocalLoss', 'use_sigmoid': True},
    'loss_bbox': {'type': 'mmdet.GIoULoss'},
}
HEADS: dict[str, dict[str, Any]] = {
    'RetinaHead': {
        **COMMON,
        'type': 'mmdet.RetinaHead',
        'anchor_generator': {**ANCHORS, 'strides': STRIDES},
        'reg_decoded_bbox': True,
        'train_cfg': {
            'assigner': {'type': 'mmdet.MaxIoUAssigner', 'pos_iou_thr': 0.4, 'neg_iou_thr': 0.3, 'min_pos_iou': 0},
            'allowed_border': -1,
            'pos_weight': -1,
        },
    },
    'FCOSHead': {
        **COMMON,
        'type': 'mmdet.FCOSHead',
        'strides': STRIDES,
        'regress_ranges': ((-1, 64), (64, 1e8)),
        'norm_cfg': None,
    },
    'GFLHead': {
        **COMMON,
        **JOINT_QUALITY,
        'type': 'mmdet.GFLHead',
        'anchor_generator': {**ANCHORS, 'strides': STRIDES},
        'norm_cfg': {'type': 'GN', 'num_groups': 4},
        'train_cfg': {'assigner': {'type': 'mmdet.ATSSAssigner', 'topk': 9}, 'allowed_border': -1, 'pos_weight': -1},
    },
    'RTMDetHead': {
        **COMMON,
        **JOINT_QUALITY,
        'type': 'mmdet.RTMDetHead',
        'anchor_generator': {'type': 'mmdet.MlvlPointGenerator', 'offset': 0, 'strides': STRIDES},
        'bbox_coder': {'type': 'mmdet.DistancePointBBoxCoder'},
        'norm_cfg': {'type': 'GN', 'num_groups': 4},
        'train_cfg': {
            'assigner': {'type': 'mmdet.DynamicSoftLabelAssigner', 'topk': 5},
            'allowed_border': -1,
            'pos_weight': -1,
        },
    },
    # its class targets are rows with the quality in the column of the class
    'VFNetHead': {
        **COMMON,
        'type': 'mmdet.VFNetHead',
        'strides': STRIDES,
        'regress_ranges': ((-1, 64), (64, 1e8)),
        'anchor_generator': {**ANCHORS, 'center_offset': 0.0, 'strides': STRIDES},
        'norm_cfg': {'type': 'GN', 'num_groups': 4},
        'train_cfg': {'assigner': {'type': 'mmdet.ATSSAssigner', 'topk': 9}, 'allowed_border': -1, 'pos_weight': -1},
    },
}
BCE = {'type': 'mmyolo_ext.BCELoss', 'use_sigmoid': True}
THEIR_BCE = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True}
SOFTMAX = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': False}


def wrapper(name: str, loss: dict, **kwargs: Any) -> dict:
    return {'type': f'mmyolo_ext.{name}', 'loss': loss, 'use_sigmoid': loss['use_sigmoid'], **kwargs}


CLASS_LOSSES = {
    'bce': BCE,
    'bce, weights': {**BCE, 'pos_weight': 2.0, 'class_weight': [0.5, 1.0, 2.0]},
    'bce, positive weights': {**BCE, 'pos_weight': [1.0, 2.0, 3.0]},
    'focal': wrapper('FocalLoss', BCE),
    'focal of theirs': wrapper('FocalLoss', THEIR_BCE),
    'quality focal': wrapper('QualityFocalLoss', BCE),
    'slide': wrapper('SlideLoss', BCE),
    'slide by quality': wrapper('SlideLoss', BCE, follow='quality'),
    'slide of theirs': wrapper('SlideLoss', THEIR_BCE),
    'slide of focal of theirs': wrapper('SlideLoss', {'type': 'mmdet.FocalLoss', 'use_sigmoid': True}),
    'focal of slide': wrapper('FocalLoss', wrapper('SlideLoss', BCE)),
}
SOFTMAX_LOSSES = {
    'slide of softmax': wrapper('SlideLoss', SOFTMAX),
    'slide of weighted softmax': wrapper('SlideLoss', {**SOFTMAX, 'class_weight': [1.0, 2.0, 3.0, 0.5]}),
}
BOX_LOSSES = {
    **{mode: {'type': 'mmyolo_ext.IoULoss', 'mode': mode} for mode in LOSS_MODES},
    'alpha-ciou': {'type': 'mmyolo_ext.IoULoss', 'power': 3.0},
    'nwd': {'type': 'mmyolo_ext.NWDLoss'},
    'sum': {'type': 'mmyolo_ext.SumLoss', 'losses': [{'type': 'mmyolo_ext.IoULoss'}, {'type': 'mmyolo_ext.NWDLoss'}]},
}


def step(name: str, boxes: bool = True, autocast: bool = False, **losses: dict) -> tuple[nn.Module, dict[str, Tensor]]:
    """Build the head, compute its losses on two images and go back."""
    torch.manual_seed(0)
    head = MODELS.build({**HEADS[name], **losses})
    feats = tuple(torch.randn(2, 8, SIZE_HW[0] // stride, SIZE_HW[1] // stride) for stride in STRIDES)
    rows = [[4.0, 4, 40, 50], [50, 10, 90, 60]] if boxes else []
    filled = InstanceData(bboxes=torch.tensor(rows).view(-1, 4), labels=torch.tensor([1, 2][: len(rows)]).long())
    empty = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())
    metas = [{'img_shape': SIZE_HW, 'pad_shape': SIZE_HW, 'batch_input_shape': SIZE_HW}] * 2
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=autocast):
        values = head.loss_by_feat(*head(feats), [filled, empty], metas)
    values = {key: sum(value) if isinstance(value, list) else value for key, value in values.items()}
    sum(values.values()).backward()
    return head, values


def assert_finite(head: nn.Module, losses: dict[str, Tensor]) -> None:
    assert all(loss.isfinite() for loss in losses.values()), losses
    gradients = [parameter.grad for parameter in head.parameters() if parameter.grad is not None]
    assert len(gradients) > 4
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert losses['loss_cls'] > 0
    assert losses['loss_bbox'] > 0


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('loss', CLASS_LOSSES)
def test_class_losses(name: str, loss: str) -> None:
    head, losses = step(name, loss_cls=CLASS_LOSSES[loss])
    assert head.cls_out_channels == NUM_CLASSES
    assert_finite(head, losses)


@pytest.mark.parametrize('name', ['RetinaHead', 'FCOSHead', 'GFLHead'])
@pytest.mark.parametrize('loss', SOFTMAX_LOSSES)
def test_softmax_class_losses(name: str, loss: str) -> None:
    head, losses = step(name, loss_cls=SOFTMAX_LOSSES[loss])
    assert head.cls_out_channels == NUM_CLASSES + 1  # background among them
    assert_finite(head, losses)


@pytest.mark.parametrize('name', HEADS)
@pytest.mark.parametrize('loss', BOX_LOSSES)
def test_box_losses(name: str, loss: str) -> None:
    assert_finite(*step(name, loss_bbox=BOX_LOSSES[loss]))


@pytest.mark.parametrize('name', HEADS)
def test_images_without_boxes(name: str) -> None:
    head, losses = step(name, boxes=False, loss_cls=CLASS_LOSSES['focal of slide'], loss_bbox=BOX_LOSSES['wiou_v3'])
    assert all(loss.isfinite() for loss in losses.values())
    assert all(p.grad.isfinite().all() for p in head.parameters() if p.grad is not None)


# VFNetHead writes float32 into bfloat16 and stops, whatever its losses
@pytest.mark.parametrize('name', [name for name in HEADS if name != 'VFNetHead'])
@pytest.mark.parametrize(
    ('cls', 'box'), [('slide', 'ciou'), ('slide by quality', 'wiou_v3'), ('focal of slide', 'siou'), ('bce', 'sum')]
)
def test_under_autocast(name: str, cls: str, box: str) -> None:
    losses = {'loss_cls': CLASS_LOSSES[cls], 'loss_bbox': BOX_LOSSES[box]}
    head, values = step(name, autocast=True, **losses)
    assert_finite(head, values)
    assert values['loss_cls'].dtype == values['loss_bbox'].dtype == torch.float32
    _, exact = step(name, **losses)
    # bfloat16 has three digits at best, and assigners decide by them
    for term, value in values.items():
        assert value.item() == pytest.approx(exact[term].item(), rel=0.05), term


def test_centerness_may_be_ours() -> None:
    assert_finite(*step('FCOSHead', loss_centerness=wrapper('SlideLoss', BCE)))


@pytest.mark.parametrize('name', ['RetinaHead', 'FCOSHead'])
def test_binary_cross_entropy_equals_that_of_mmdet(name: str) -> None:
    ours, theirs = (step(name, loss_cls=loss)[1] for loss in (BCE, THEIR_BCE))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize('name', ['RetinaHead', 'FCOSHead'])
def test_slide_leaves_plain_labels_alone(name: str) -> None:
    slide, plain = (step(name, loss_cls=CLASS_LOSSES[loss])[1] for loss in ('slide', 'bce'))
    torch.testing.assert_close(slide, plain)


@pytest.mark.parametrize('name', ['GFLHead', 'RTMDetHead', 'VFNetHead'])
def test_slide_weighs_where_the_targets_carry_a_quality(name: str) -> None:
    slide, plain = (step(name, loss_cls=CLASS_LOSSES[loss])[1] for loss in ('slide', 'bce'))
    assert slide['loss_cls'] > plain['loss_cls']


@pytest.mark.parametrize('name', HEADS)
def test_repulsion_says_what_it_lacks(name: str) -> None:
    with pytest.raises(ValueError, match='which boxes share an image'):
        step(name, loss_bbox={'type': 'mmyolo_ext.RepulsionLoss'})
