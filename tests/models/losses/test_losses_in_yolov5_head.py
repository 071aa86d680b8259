"""Our losses and mmdet's in YOLOv5Head: finite gradients, arguments, and what is refused."""

import math

import pytest
import torch
from mmengine.structures import InstanceData
from torch import nn
from yolov5_head_step import (
    CHANNELS,
    LEFT_HALF,
    NO_TRUTH,
    SIZE_HW,
    STRIDES,
    TRUTH,
    boxes_of,
    build_head,
    recorded,
    step,
    step_everywhere,
)

from mmyolo_ext.boxes import paired_iou
from mmyolo_ext.models.losses.box_losses import LOSS_MODES
from mmyolo_ext.models.losses.utils import call_loss
from mmyolo_ext.registry import MODELS

BCE = {'type': 'mmyolo_ext.BCELoss'}
THEIR_BCE = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True}
SOFTMAX = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': False}
FOCAL_OF_SLIDE = {'type': 'mmyolo_ext.FocalLoss', 'loss': {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}}
BINARY_LOSSES = {
    'bce': BCE,
    'positive weight': {**BCE, 'pos_weight': 2.0},
    'focal': {'type': 'mmyolo_ext.FocalLoss', 'loss': BCE},
    'quality focal': {'type': 'mmyolo_ext.QualityFocalLoss', 'loss': THEIR_BCE},
    'slide': {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE},
    'slide by quality': {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE, 'follow': 'quality'},
    'focal of slide': FOCAL_OF_SLIDE,
    'slide of theirs': {'type': 'mmyolo_ext.SlideLoss', 'loss': THEIR_BCE},
    'slide of their focal': {'type': 'mmyolo_ext.SlideLoss', 'loss': {'type': 'mmdet.FocalLoss'}},
    'slide of their varifocal': {'type': 'mmyolo_ext.SlideLoss', 'loss': {'type': 'mmdet.VarifocalLoss'}},
    'slide of their GHM': {'type': 'mmyolo_ext.SlideLoss', 'loss': {'type': 'mmdet.GHMC'}},
    'their bce': THEIR_BCE,
    'their focal': {'type': 'mmdet.FocalLoss'},
    'their quality focal': {'type': 'mmdet.QualityFocalLoss'},
    'their varifocal': {'type': 'mmdet.VarifocalLoss'},
    'their GHM': {'type': 'mmdet.GHMC'},
    'their GHM, momentum': {'type': 'mmdet.GHMC', 'bins': 5, 'momentum': 0.75},
}
CLASS_LOSSES = {
    'class weights': {**BCE, 'class_weight': [0.5, 1.0, 2.0]},
    'positive weights': {**BCE, 'pos_weight': [0.5, 1.0, 2.0]},
    'their class weights': {**THEIR_BCE, 'class_weight': [0.5, 1.0, 2.0]},
    'softmax': SOFTMAX,
    'softmax, class weights': {**SOFTMAX, 'class_weight': [0.5, 1.0, 2.0]},
    'slide of softmax': {'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX},
}
MMDET_BOX_LOSSES = (
    'IoULoss',
    'BoundedIoULoss',
    'GIoULoss',
    'DIoULoss',
    'CIoULoss',
    'EIoULoss',
    'SIoULoss',
    'SmoothL1Loss',
    'L1Loss',
    'BalancedL1Loss',
    'MSELoss',
    'GHMR',
)
BOX_LOSSES = {
    **{mode: {'type': 'mmyolo_ext.IoULoss', 'mode': mode} for mode in LOSS_MODES},
    'alpha-ciou': {'type': 'mmyolo_ext.IoULoss', 'power': 3.0},
    'nwd': {'type': 'mmyolo_ext.NWDLoss'},
    'repulsion': {'type': 'mmyolo_ext.RepulsionLoss'},
    'sum': {'type': 'mmyolo_ext.SumLoss', 'losses': [{'type': 'mmyolo_ext.NWDLoss'}, {'type': 'mmdet.L1Loss'}]},
    **{f'their {name}': {'type': f'mmdet.{name}'} for name in MMDET_BOX_LOSSES},
}


@pytest.mark.parametrize('loss', BINARY_LOSSES)
def test_class_and_objectness_losses(loss: str) -> None:
    losses = step_everywhere(build_head(loss_cls=BINARY_LOSSES[loss], loss_obj=BINARY_LOSSES[loss]))
    assert losses['loss_cls'] > 0
    assert losses['loss_obj'] > 0


@pytest.mark.parametrize('loss', CLASS_LOSSES)
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_losses_on_classes_alone(loss: str, smoothing: float) -> None:
    head = build_head(loss_cls=CLASS_LOSSES[loss], label_smoothing=smoothing)
    assert head.use_sigmoid == ('softmax' not in loss)
    assert step_everywhere(head)['loss_cls'] > 0


@pytest.mark.parametrize('loss', BOX_LOSSES)
def test_box_losses(loss: str) -> None:
    losses = step_everywhere(build_head(loss_bbox=BOX_LOSSES[loss]))
    (name,) = set(losses) - {'loss_cls', 'loss_obj'}
    assert name == {'nwd': 'loss_nwd', 'repulsion': 'loss_rep'}.get(loss, 'loss_bbox')
    # mmdet's SIoU rewards distance by default
    assert losses[name] > 0 or loss == 'their SIoULoss'


@pytest.mark.parametrize('loss', ['bce', 'their bce', 'their focal', 'their quality focal', 'their varifocal'])
def test_ignored_places_add_nothing_whatever_the_loss(loss: str) -> None:
    """The sum over all places is that over the counted ones and over the others."""
    everything = [InstanceData(bboxes=torch.tensor([[-1e3, -1e3, 1e3, 1e3]]))] * 3
    head = build_head(loss_obj=BINARY_LOSSES[loss])
    assert step(head, NO_TRUTH, everything)['loss_obj'].item() == 0
    assert 0 < step(head, NO_TRUTH, LEFT_HALF)['loss_obj'] < step(head, NO_TRUTH)['loss_obj']


def test_every_term_is_logged_and_adds_up() -> None:
    configs = [
        {'type': 'mmyolo_ext.IoULoss', 'loss_weight': 0.03},
        {'type': 'mmyolo_ext.NWDLoss', 'loss_weight': 0.02},
        {'type': 'mmyolo_ext.RepulsionLoss', 'loss_weight': 0.5},
    ]
    together = step(build_head(loss_bbox=configs))
    assert list(together) == ['loss_cls', 'loss_bbox', 'loss_nwd', 'loss_rep', 'loss_obj']
    for name, config in zip(('loss_bbox', 'loss_nwd', 'loss_rep'), configs, strict=True):
        torch.testing.assert_close(step(build_head(loss_bbox=config))[name], together[name])
    none = step(build_head(loss_bbox=configs), NO_TRUTH)
    assert [none[name].item() for name in ('loss_bbox', 'loss_nwd', 'loss_rep')] == [0, 0, 0]


def test_the_gain_of_boxes_holds_for_every_term() -> None:
    configs = [{'type': 'mmyolo_ext.IoULoss'}, {'type': 'mmyolo_ext.NWDLoss'}, {'type': 'mmyolo_ext.RepulsionLoss'}]
    plain = build_head(loss_bbox=configs)
    doubled = build_head(loss_bbox=configs)
    doubled.gains['loss_bbox'] = 2.0
    before, after = step(plain), step(doubled)
    ratio = {name: (after[name] / before[name]).item() for name in before}
    assert ratio == pytest.approx({'loss_cls': 1, 'loss_bbox': 2, 'loss_nwd': 2, 'loss_rep': 2, 'loss_obj': 1})


def test_boxes_come_with_stride_and_crowd() -> None:
    head = build_head(loss_bbox=[{'type': 'mmyolo_ext.NWDLoss'}, {'type': 'mmyolo_ext.RepulsionLoss'}])
    nwd, repulsion = head.loss_bbox.losses
    assert [call['stride'] for call in recorded(head, nwd)] == list(STRIDES)
    truth = torch.cat([instances.bboxes for instances in TRUTH])
    for call, stride in zip(recorded(head, repulsion), STRIDES, strict=True):
        crowd = call['crowd']
        assert crowd.gt_image.tolist() == [0, 0, 0, 2, 2]
        torch.testing.assert_close(crowd.gt_xyxy * stride, truth)
        torch.testing.assert_close(crowd.gt_xyxy[crowd.gt], call['target'])
        assert torch.equal(crowd.gt_image[crowd.gt], crowd.image)
        assert len(crowd.image) == len(call['pred'])


def test_repulsion_stays_inside_a_image() -> None:
    head = build_head(loss_bbox={'type': 'mmyolo_ext.RepulsionLoss'})
    left, right = (3, 5, 30, 40, 0), (10, 5, 38, 42, 2)
    assert step(head, [boxes_of(left, right), boxes_of()])['loss_rep'] > 0
    assert step(head, [boxes_of(left), boxes_of(right)])['loss_rep'].item() == 0


def test_slide_gets_the_quality_of_its_level() -> None:
    slide = {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}
    head = build_head(loss_cls=slide, loss_obj=slide)
    boxes, classes, places = (
        recorded(head, loss) for loss in (head.loss_bbox.losses[0], head.loss_cls, head.loss_obj)
    )
    assert len(boxes) == len(classes) == len(places) == 3
    for box, of_class, of_place in zip(boxes, classes, places, strict=True):
        ciou = paired_iou(box['pred'].detach(), box['target'], 'ciou')
        for call in (of_class, of_place):
            torch.testing.assert_close(call['quality'].mean, ciou.mean())
        torch.testing.assert_close(of_class['quality'].values, ciou.clamp(min=0))
        torch.testing.assert_close(of_place['quality'].values, of_place['target'].flatten())
        assert of_place['target'].max().item() == pytest.approx(ciou.max().item())


def test_slide_without_positives_gets_a_half() -> None:
    slide = {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}
    head = build_head(loss_obj=slide)
    assert [call['quality'].mean.item() for call in recorded(head, head.loss_obj, NO_TRUTH)] == [0.5] * 3
    torch.testing.assert_close(step(head, NO_TRUTH)['loss_obj'], step(build_head(), NO_TRUTH)['loss_obj'])


def test_slide_of_softmax_by_hand() -> None:
    head = build_head(loss_cls={'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX})
    calls = recorded(head, head.loss_cls)
    total = 0.0
    for call in calls:
        mean = max(call['quality'].mean.item(), 0.2)
        level = 0.0
        for logits, label, y in zip(call['pred'], call['target'], call['quality'].values.tolist(), strict=True):
            weight = 1.0 if y <= mean - 0.1 else math.exp(1 - mean) if y < mean else math.exp(1 - y)
            level += weight * -logits.log_softmax(0)[label].item()
        total += level / len(call['pred'])
    assert step(head)['loss_cls'].item() == pytest.approx(3 * total, rel=1e-5)


@pytest.mark.parametrize('inner', ['bce', 'softmax'])
@pytest.mark.parametrize('wrapped', [False, True])
def test_class_weights_by_hand(inner: str, wrapped: bool) -> None:
    weights = [0.5, 1.0, 3.0]
    loss = {**(SOFTMAX if inner == 'softmax' else BCE), 'class_weight': weights}
    head = build_head(loss_cls={'type': 'mmyolo_ext.SlideLoss', 'loss': loss} if wrapped else loss)
    total = 0.0
    for call in recorded(head, head.loss_cls):
        level, mean = [], max(call['quality'].mean.item(), 0.2) if wrapped else 0
        qualities = call['quality'].values.tolist() if wrapped else [0.0] * len(call['pred'])
        for logits, target, y in zip(call['pred'].detach(), call['target'], qualities, strict=True):
            # hard targets weigh 1 under a sigmoid; a softmax follows the quality
            slide = 1.0 if y <= mean - 0.1 else math.exp(1 - mean) if y < mean else math.exp(1 - y)
            if inner == 'softmax':
                factor = slide if wrapped else 1.0
                level.append(weights[target] * factor * (logits.logsumexp(0) - logits[target]).item())
            else:
                signs = (2 * target - 1) * logits  # ln(1 + e^-z) for a positive, ln(1 + e^z) for a negative
                level += [w * math.log1p(math.exp(-z)) for w, z in zip(weights, signs.tolist(), strict=True)]
        total += sum(level) / len(level)
    assert step(head)['loss_cls'].item() == pytest.approx(3 * total, rel=1e-5)


def test_exclusive_scores_sum_to_one_and_give_one_label_a_box() -> None:
    head = build_head(loss_cls={'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX}).eval()
    generator = torch.Generator().manual_seed(0)
    feats = [
        torch.randn(1, channels, SIZE_HW[0] // stride, SIZE_HW[1] // stride, generator=generator)
        for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    outputs = head(feats)
    predictions = head.decode(*outputs)
    sums = predictions.class_scores.sum(-1)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    meta = {'ori_shape': SIZE_HW, 'img_shape': SIZE_HW, 'batch_input_shape': SIZE_HW, 'scale_factor': (1.0, 1.0)}
    (found,) = head.predict_by_feat(*outputs, [meta], with_nms=False, rescale=False)
    assert len(found) == sums.numel()  # every place once; a sigmoid gives one for each class


@MODELS.register_module(force=True)
class HuberBox(nn.Module):
    """A smooth-L1 box loss that rises from zero over the first calls."""

    def __init__(self, warmup: int = 2) -> None:
        super().__init__()
        self.warmup, self.calls = warmup, 0

    def forward(self, pred, target, weight=None, avg_factor=None):
        loss = nn.functional.smooth_l1_loss(pred, target, reduction='none').sum(1)
        ramp, self.calls = min(self.calls / self.warmup, 1), self.calls + 1
        return ramp * (loss if weight is None else loss * weight).sum() / avg_factor


@MODELS.register_module(force=True)
class PlainBCE(nn.Module):
    """A loss with predictions and targets only; its elements are left to the caller."""

    def __init__(self, mean: bool) -> None:
        super().__init__()
        self.reduction = 'mean' if mean else 'none'

    def forward(self, pred, target):
        return nn.functional.binary_cross_entropy_with_logits(pred, target, reduction=self.reduction)


@MODELS.register_module(force=True)
class NeedsAnImage(nn.Module):
    def forward(self, pred, target, weight, image):
        return pred.sum()


def test_a_box_loss_that_starts_at_zero() -> None:
    head = build_head(loss_bbox={'type': 'mmyolo_ext.HuberBox', 'warmup': 6})
    first, third = step(head)['loss_bbox'].item(), [step(head) for _ in range(2)][-1]['loss_bbox'].item()
    # three levels a step: ramps 0, 1/6, 2/6, then all of the third step 1
    assert 0 < first < third


@pytest.mark.parametrize('mean', [False, True])
@pytest.mark.parametrize('padded', [False, True])
def test_a_loss_without_weight_and_divisor(mean: bool, padded: bool) -> None:
    plain = {'type': 'mmyolo_ext.PlainBCE', 'mean': mean}
    assigner = {'type': 'mmyolo_ext.YOLOv5Assigner', 'padded': padded}
    ours, other = (step(build_head(loss_cls=loss, loss_obj=loss, assigner=assigner)) for loss in (plain, BCE))
    for name, loss in other.items():
        torch.testing.assert_close(ours[name], loss)
    step(build_head(loss_cls={'type': 'mmyolo_ext.SlideLoss', 'loss': {**plain, 'mean': False}}))


def test_elements_are_divided_by_the_positives_of_all_ranks() -> None:
    # four elements of ln 2, over 10
    elements = call_loss(PlainBCE(mean=False), torch.zeros(2, 2), torch.ones(2, 2), avg_factor=10)
    assert elements.item() == pytest.approx(4 * math.log(2) / 10)


@pytest.mark.parametrize('name', ['loss_cls', 'loss_obj', 'loss_bbox'])
def test_a_loss_with_another_call(name: str) -> None:
    expected = rf'{name}=NeedsAnImage must be callable as loss\(pred, target, weight=None.*pred, target, weight, image'
    with pytest.raises(ValueError, match=expected):
        build_head(**{name: {'type': 'mmyolo_ext.NeedsAnImage'}})


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'loss_cls': {'type': 'mmdet.SeesawLoss', 'num_classes': 3}}, 'SeesawLoss needs channels of its own'),
        ({'loss_cls': {'type': 'mmdet.EQLV2Loss', 'num_classes': 3}}, 'EQLV2Loss needs channels of its own'),
        ({'loss_obj': SOFTMAX}, 'loss_obj=CrossEntropyLoss is a softmax'),
        ({'loss_obj': {'type': 'mmdet.SeesawLoss', 'num_classes': 1}}, 'loss_obj=SeesawLoss is a softmax'),
    ],
)
def test_refused_when_built(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_head(**kwargs)
