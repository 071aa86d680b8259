"""YOLOv5Head against the losses, gradients and positives of the original implementation."""

import pytest
import torch
from golden_cases import ANCHORS_PX, CASES, DEFAULT_STRIDES, GoldenInputs, golden_inputs
from mmengine.structures import InstanceData

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.heads import YOLOv5Head

RELATIVE = 1e-4
YOLOV5_CASES = [name for name in CASES if not name.startswith('yolov3')]
CASES_WITH_POSITIVES = [name for name in YOLOV5_CASES if 'positives' in CASES[name]['expected']]


def build_head(case: dict) -> YOLOv5Head:
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


def run_loss(head: YOLOv5Head, inputs: GoldenInputs) -> dict[str, torch.Tensor]:
    # (N, A, H, W, 5+C) -> (N, A, 5+C, H, W), then each part with its anchors in the channels
    raw = [level.permute(0, 1, 4, 2, 3) for level in inputs.predictions]
    boxes_xyxy = cxcywh_to_xyxy(inputs.boxes_cxcywh)
    instances = [
        InstanceData(bboxes=boxes_xyxy[inputs.image == index], labels=inputs.labels[inputs.image == index])
        for index in range(len(raw[0]))
    ]
    return head.loss_by_feat(
        [level[:, :, 5:].flatten(1, 2) for level in raw],
        [level[:, :, :4].flatten(1, 2) for level in raw],
        [level[:, :, 4] for level in raw],
        instances,
        [{'batch_input_shape': inputs.size_hw}] * len(instances),
    )


@pytest.mark.parametrize('name', YOLOV5_CASES)
def test_losses_and_gradients(name: str) -> None:
    case = CASES[name]
    expected = {**case['expected'], **case['expected'].get('best_iou_wins', {})}
    head, inputs = build_head(case), golden_inputs(case)
    for level in inputs.predictions:
        level.requires_grad_()
    for _ in range(expected.get('calls', 1)):
        losses = run_loss(head, inputs)
    total = sum(losses.values())
    gradients = torch.autograd.grad(total, inputs.predictions)

    approx = lambda value: pytest.approx(value, rel=RELATIVE, abs=1e-9)  # noqa: E731
    assert total.item() == approx(expected['total'])
    assert losses['loss_bbox'].item() / case['batch'] == approx(expected['box'])
    assert losses['loss_obj'].item() / case['batch'] == approx(expected['obj'])
    assert losses['loss_cls'].item() / case['batch'] == approx(expected['cls'])
    parts = {'': slice(None), '_box': slice(0, 4), '_obj': slice(4, 5), '_cls': slice(5, None)}
    for suffix, channels in parts.items():
        norms = [gradient[..., channels].norm().item() for gradient in gradients]
        assert norms == approx(expected[f'grad_l2{suffix}']), suffix
    if 'balance_after' in expected:
        assert head.obj_balance.weights.tolist() == approx(expected['balance_after'])


@pytest.mark.parametrize('name', CASES_WITH_POSITIVES)
def test_positives(name: str) -> None:
    case = CASES[name]
    head, inputs = build_head(case), golden_inputs(case)
    height, width = inputs.size_hw
    levels = head.assigner.assign(
        inputs.boxes_cxcywh,
        inputs.image,
        head.priors_wh,
        head.strides,
        [(height // stride, width // stride) for stride in head.strides],
    )
    for positives, stride, expected in zip(levels, head.strides, case['expected']['positives'], strict=True):
        target = inputs.boxes_cxcywh[positives.gt] / stride
        target[:, :2] -= torch.stack([positives.cell_x, positives.cell_y], dim=1)
        where = torch.stack(
            [positives.image, positives.prior, positives.cell_y, positives.cell_x, inputs.labels[positives.gt]], dim=1
        )
        rows = sorted(torch.cat([where, target], dim=1).tolist())
        assert len(rows) == len(expected)
        assert [row[:5] for row in rows] == [row[:5] for row in expected]
        for row, expected_row in zip(rows, expected, strict=True):
            assert row[5:] == pytest.approx(expected_row[5:], abs=1e-4)


def test_no_case_is_lost() -> None:
    assert len(YOLOV5_CASES) == 17
    assert len(CASES_WITH_POSITIVES) == 10
