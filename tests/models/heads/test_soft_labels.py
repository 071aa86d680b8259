"""Soft labels: targets, losses and errors worked out by hand."""

import math

import pytest
import torch
from mmengine.structures import InstanceData
from pred_maps import split_maps
from torch import Tensor

from mmyolo_ext.models.heads import YOLOv3Head, YOLOv5Head
from mmyolo_ext.models.heads.targets import class_targets, collect_soft_labels

SIZE_HW = (64, 96)
METAS = [{'batch_input_shape': SIZE_HW, 'img_shape': SIZE_HW}] * 3
BOXES = torch.tensor([[3.0, 5, 30, 40], [50, 10, 90, 60]])
LABELS = torch.tensor([0, 2])
SOFT = torch.tensor([[0.7, 0.3, 0.0], [0.1, 0.1, 0.8]])
BCE = {'type': 'mmyolo_ext.BCELoss'}
SOFTMAX = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': False}
HEADS = (YOLOv5Head, YOLOv3Head)


def build_head(kind: type[YOLOv5Head] = YOLOv5Head, **options) -> YOLOv5Head:
    torch.manual_seed(0)
    return kind(**{'num_classes': 3, 'in_channels': (8, 8, 8), 'scale_losses': False, **options})


def features(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(count, 8, SIZE_HW[0] // s, SIZE_HW[1] // s, generator=generator) for s in (8, 16, 32)]


def truth_of(soft_labels: Tensor | None = None) -> InstanceData:
    found = InstanceData(bboxes=BOXES, labels=LABELS)
    if soft_labels is not None:
        found.soft_labels = soft_labels
    return found


EMPTY = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long())


def losses_of(head: YOLOv5Head, *truth: InstanceData) -> dict[str, Tensor]:
    return head.loss_by_feat(*head(features(len(truth))), list(truth), METAS[: len(truth)])


def test_targets_by_hand():
    # without smoothing they are the targets
    assert torch.equal(class_targets(SOFT, 3, 0, use_sigmoid=True), SOFT)
    assert torch.equal(class_targets(SOFT, 3, 0, use_sigmoid=False), SOFT)
    # e = 0.1: 0.9 q + 0.05; 0.63 + 0.05, 0.27 + 0.05, 0.05
    smooth = class_targets(SOFT, 3, 0.1, use_sigmoid=True)
    assert smooth[0].tolist() == pytest.approx([0.68, 0.32, 0.05])
    # e = 0.3, C = 3: 0.7 q + 0.1; the row still sums to 1
    shares = class_targets(SOFT, 3, 0.3, use_sigmoid=False)
    assert shares[0].tolist() == pytest.approx([0.59, 0.31, 0.1])
    assert shares.sum(1).tolist() == pytest.approx([1, 1])
    # rows of 0 and 1 are what labels give
    rows = torch.eye(3)[LABELS]
    for use_sigmoid in (True, False):
        soft, hard = (class_targets(labels, 3, 0.1, use_sigmoid) for labels in (rows, LABELS))
        assert torch.equal(soft, hard)


def class_loss_by_loops(head: YOLOv5Head, soft: Tensor, smoothing: float) -> float:
    """Of one image, one positive after the other; summed over the levels."""
    cls_scores, _, objectnesses = split_maps(*head(features(1)))
    centres = torch.cat([(BOXES[:, :2] + BOXES[:, 2:]) / 2, BOXES[:, 2:] - BOXES[:, :2]], dim=1)
    grids = [level.shape[2:] for level in objectnesses]
    matches = head.assigner.assign(centres, torch.zeros(2).long(), head.anchors_wh, head.strides, grids)
    total = 0.0
    for scores, match in zip(cls_scores, matches, strict=True):
        terms = []
        for anchor, row, column, box in zip(match.anchor, match.cell_y, match.cell_x, match.gt, strict=True):
            logits = [scores[0, 3 * anchor + c, row, column].item() for c in range(3)]
            shares = soft[box].tolist()
            if head.use_sigmoid:
                for t, q in zip(logits, shares, strict=True):
                    p, q = 1 / (1 + math.exp(-t)), (1 - smoothing) * q + smoothing / 2
                    terms.append(-q * math.log(p) - (1 - q) * math.log(1 - p))
            else:
                norm = math.log(sum(math.exp(t) for t in logits))
                shares = [(1 - smoothing) * q + smoothing / 3 for q in shares]
                terms.append(sum(q * (norm - t) for t, q in zip(logits, shares, strict=True)))
        total += sum(terms) / len(terms) if terms else 0.0
    return total


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize('loss_cls', [BCE, SOFTMAX])
@pytest.mark.parametrize('smoothing', [0.0, 0.2])
def test_the_class_loss_is_that_of_the_loops(kind, loss_cls, smoothing):
    head = build_head(kind, loss_cls=loss_cls, label_smoothing=smoothing)
    losses = losses_of(head, truth_of(SOFT))
    assert losses['loss_cls'].item() == pytest.approx(class_loss_by_loops(head, SOFT, smoothing), rel=1e-5)
    hard = losses_of(head, truth_of())
    assert losses['loss_cls'].item() != pytest.approx(hard['loss_cls'].item(), rel=1e-3)
    # boxes and objectness are none of their business
    assert losses['loss_bbox'] == hard['loss_bbox'] and losses['loss_obj'] == hard['loss_obj']


@pytest.mark.parametrize('kind', HEADS)
@pytest.mark.parametrize('loss_cls', [BCE, SOFTMAX, {'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX}])
@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_rows_of_zero_and_one_equal_labels(kind, loss_cls, smoothing):
    head = build_head(kind, loss_cls=loss_cls, label_smoothing=smoothing)
    soft, hard = (losses_of(head, truth_of(rows), EMPTY, truth_of()) for rows in (torch.eye(3)[LABELS], None))
    torch.testing.assert_close(soft, hard, rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    'loss_cls',
    [
        {'type': 'mmyolo_ext.FocalLoss', 'loss': BCE},
        {'type': 'mmyolo_ext.QualityFocalLoss', 'loss': BCE},
        {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE, 'follow': 'quality'},
        {'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX},
        {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True},
        {**SOFTMAX, 'class_weight': [1.0, 2.0, 0.5]},
        {'type': 'mmdet.FocalLoss'},
        {'type': 'mmdet.GHMC'},
    ],
)
def test_losses_that_take_them(loss_cls):
    head = build_head(loss_cls=loss_cls)
    losses = losses_of(head, truth_of(SOFT), EMPTY)
    assert losses['loss_cls'] > 0 and losses['loss_cls'] != losses_of(head, truth_of(), EMPTY)['loss_cls']
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_images_without_them_count_with_their_labels():
    rows = collect_soft_labels([truth_of(), EMPTY, truth_of(SOFT)], torch.cat([LABELS, LABELS]), 3, use_sigmoid=False)
    assert torch.equal(rows, torch.cat([torch.eye(3)[LABELS], SOFT]))
    nothing = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0).long(), soft_labels=torch.zeros(0, 3))
    head = build_head(loss_cls=SOFTMAX)
    losses = losses_of(head, nothing, nothing)
    assert losses['loss_cls'] == 0
    sum(losses.values()).backward()
    assert all(parameter.grad.isfinite().all() for parameter in head.parameters())


def test_a_dynamic_assigner_matches_by_the_labels():
    head = build_head(assigner={'type': 'mmyolo_ext.YOLOv5SimOTAAssigner'})
    soft, hard = losses_of(head, truth_of(SOFT)), losses_of(head, truth_of())
    assert soft['loss_bbox'] == hard['loss_bbox'] and soft['loss_cls'] != hard['loss_cls']


@pytest.mark.parametrize('loss_cls', [BCE, SOFTMAX])
@pytest.mark.parametrize(
    ('soft', 'message'),
    [
        (torch.tensor([[0.7, 0.3, 0.0], [1.5, -0.5, 0.0]]), r'in \[0, 1\].*got \[1.5, -0.5, 0.0\]'),
        (torch.tensor([[math.nan, 0.3, 0.0], [0.5, 0.5, 0.0]]), r'in \[0, 1\].*got \[nan'),
    ],
)
def test_what_are_no_shares(loss_cls, soft, message):
    with pytest.raises(ValueError, match=message):
        losses_of(build_head(loss_cls=loss_cls), truth_of(soft))


def test_shares_of_exclusive_classes_sum_to_one():
    both = torch.tensor([[0.9, 0.9, 0.0], [0.1, 0.1, 0.8]])  # a box of two classes at once
    with pytest.raises(ValueError, match=r'sum to 1, since a softmax loss_cls .* got \[0.89'):
        losses_of(build_head(loss_cls=SOFTMAX), truth_of(both))
    assert losses_of(build_head(loss_cls=BCE), truth_of(both))['loss_cls'].isfinite()
    # written with three decimals, a third each: 0.999
    losses_of(build_head(loss_cls=SOFTMAX), truth_of(torch.full((2, 3), 0.333)))
