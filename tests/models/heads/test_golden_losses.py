"""YOLOv5Head and YOLOv3Head against the losses, gradients and positives of the original implementation."""

import pytest
from golden_cases import (
    ANCHORS_PX,
    CASES,
    DEFAULT_STRIDES,
    RELATIVE,
    assert_golden,
    assert_positives,
    golden_inputs,
    run_loss,
)

from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head

CASES_WITH_POSITIVES = [name for name in CASES if 'positives' in CASES[name]['expected']]


def yolov5_head(case: dict) -> YOLOv5Head:
    hyp = case['hyp']
    loss_cls = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': hyp['cls'], 'pos_weight': hyp['cls_pw']}
    loss_obj = {'type': 'mmyolo_ext.BCELoss', 'loss_weight': hyp['obj'], 'pos_weight': hyp['obj_pw']}
    if case.get('softmax'):
        loss_cls = {'type': 'mmdet.CrossEntropyLoss', 'loss_weight': hyp['cls']}
    if case.get('slide'):
        loss_cls, loss_obj = ({'type': 'mmyolo_ext.SlideLoss', 'loss': loss} for loss in (loss_cls, loss_obj))
    if hyp['fl_gamma']:
        focal = {'type': 'mmyolo_ext.FocalLoss', 'gamma': hyp['fl_gamma']}
        loss_cls, loss_obj = ({**focal, 'loss': loss} for loss in (loss_cls, loss_obj))
    return YOLOv5Head(
        num_classes=case['nc'],
        in_channels=[8, 8, 8],
        prior_generator={
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': ANCHORS_PX,
            'strides': list(DEFAULT_STRIDES),
        },
        assigner={'type': 'mmyolo_ext.YOLOv5Assigner', 'prior_match_thr': hyp['anchor_t']},
        loss_cls=loss_cls,
        loss_bbox={'type': 'mmyolo_ext.IoULoss', 'loss_weight': hyp['box']},
        loss_obj=loss_obj,
        label_smoothing=hyp['label_smoothing'],
        iou_ratio=case.get('gr', 1.0),
        auto_balance=case.get('autobalance', False),
        scale_losses=False,
    )


def yolov3_head(case: dict) -> YOLOv3Head:
    """The gains of the cases are the defaults of the head."""
    assert {'giou': 3.54, 'obj': 64.3, 'cls': 37.4, 'iou_t': 0.2}.items() <= case['hyp'].items()
    return YOLOv3Head(
        num_classes=case['nc'],
        in_channels=[8, 8, 8],
        # the levels of these cases run deep to shallow
        prior_generator={
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': ANCHORS_PX[::-1],
            'strides': case['strides'],
        },
        iou_ratio=case['gr'],
        scale_losses=False,
    )


def build_head(name: str) -> YOLOv5Head:
    return yolov3_head(CASES[name]) if name.startswith('yolov3') else yolov5_head(CASES[name])


@pytest.mark.parametrize('name', CASES)
def test_losses_and_gradients(name: str) -> None:
    case = CASES[name]
    expected = {**case['expected'], **case['expected'].get('best_iou_wins', {})}
    head, inputs = build_head(name), golden_inputs(case)
    for level in inputs.predictions:
        level.requires_grad_()
    for _ in range(expected.get('calls', 1)):
        losses = run_loss(head, inputs)
    # YOLOv5's are sums over the images
    assert_golden(losses, inputs, expected, factor=1 if name.startswith('yolov3') else case['batch'])
    if 'balance_after' in expected:
        assert head.obj_balance.weights.tolist() == pytest.approx(expected['balance_after'], rel=RELATIVE)


@pytest.mark.parametrize('name', CASES_WITH_POSITIVES)
def test_positives(name: str) -> None:
    case = CASES[name]
    assert_positives(build_head(name), golden_inputs(case), case['expected']['positives'])


def test_no_case_is_lost() -> None:
    assert len(CASES) == 19
    assert len(CASES_WITH_POSITIVES) == 12
