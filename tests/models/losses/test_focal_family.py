"""Focal and quality focal weighting: values by hand, against mmdet's, and in wrappers of wrappers."""

import math

import pytest
import torch
from mmdet.models.losses import FocalLoss as MMDetFocalLoss
from mmdet.models.losses import QualityFocalLoss as MMDetQualityFocalLoss

import mmyolo_ext  # noqa: F401  (registers the scope)
from mmyolo_ext.models.heads import YOLOv5Head
from mmyolo_ext.models.losses import BCELoss, FocalLoss, QualityFocalLoss, SlideLoss

BCE = {'type': 'mmyolo_ext.BCELoss'}
THEIR_BCE = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': True}
LOGITS = torch.tensor([[0.0, math.log(3)]])  # p = 1/2, 3/4
TARGETS = torch.tensor([[1.0, 0.5]])
# binary cross-entropies of those
ELEMENTS = [math.log(2), -0.5 * math.log(3 / 4) - 0.5 * math.log(1 / 4)]


def random_logits(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize('inner', [BCE, THEIR_BCE])
def test_focal_by_hand(inner: dict) -> None:
    # y = 1, p = 1/2: alpha 0.25, p_t = 1/2. y = 1/2, p = 3/4: alpha 0.125 + 0.375, p_t = 3/8 + 1/8 = 1/2
    expected = [0.25 * 0.5**1.5 * ELEMENTS[0], 0.5 * 0.5**1.5 * ELEMENTS[1]]
    actual = FocalLoss(inner)(LOGITS, TARGETS, reduction_override='none')
    assert actual[0].tolist() == pytest.approx(expected)


def test_quality_focal_by_hand() -> None:
    # |y - p| = 1/2 and 1/4
    expected = [0.25 * 0.5**2 * ELEMENTS[0], 0.5 * 0.25**2 * ELEMENTS[1]]
    actual = QualityFocalLoss(BCE, gamma=2.0)(LOGITS, TARGETS, reduction_override='none')
    assert actual[0].tolist() == pytest.approx(expected)


def test_focal_equals_that_of_mmdet() -> None:
    logits, labels = random_logits(40, 5), torch.arange(40) % 6  # 5 is background
    weight = torch.linspace(0, 1, 40)
    theirs = MMDetFocalLoss(gamma=2.0, alpha=0.3)(logits, labels, weight, avg_factor=7)
    torch.testing.assert_close(FocalLoss(BCE, gamma=2.0, alpha=0.3)(logits, labels, weight, avg_factor=7), theirs)


def test_quality_focal_equals_that_of_mmdet() -> None:
    logits, labels = random_logits(40, 5), torch.arange(40) % 6
    quality = torch.linspace(0.1, 0.9, 40) * (labels < 5)
    theirs = MMDetQualityFocalLoss(beta=2.0)(logits, (labels, quality), avg_factor=7)
    # half of alpha and of 1 - alpha each, where theirs has no balance
    ours = QualityFocalLoss({**BCE, 'loss_weight': 2.0}, gamma=2.0, alpha=0.5)
    torch.testing.assert_close(ours(logits, (labels, quality), avg_factor=7), theirs)


def test_gradient_runs_through_the_factor() -> None:
    for kind in (FocalLoss, QualityFocalLoss):
        loss = kind({**BCE, 'pos_weight': 1.5, 'class_weight': [0.5, 2.0]})
        targets = torch.tensor([[1.0, 0.3], [0.0, 0.8]], dtype=torch.float64)
        logits = torch.tensor([[0.4, -1.0], [2.0, 0.3]], dtype=torch.float64, requires_grad=True)
        assert torch.autograd.gradcheck(lambda x, loss=loss, targets=targets: loss(x, targets), logits)


@pytest.mark.parametrize('gamma', [0.0, 0.5, 1.5])
def test_saturated_logits_are_finite(gamma: float) -> None:
    for kind in (FocalLoss, QualityFocalLoss):
        logits = torch.tensor([[200.0, -200.0, 200.0, -200.0]], requires_grad=True)
        loss = kind(BCE, gamma=gamma)(logits, torch.tensor([[1.0, 0.0, 0.0, 1.0]]))
        loss.backward()
        assert loss.isfinite()
        assert logits.grad.isfinite().all()


def test_wrappers_keep_the_inner_gain_and_weights() -> None:
    inner = {**BCE, 'loss_weight': 3.0, 'class_weight': [1.0, 2.0]}
    plain = FocalLoss(BCE)(LOGITS, TARGETS, reduction_override='none')
    kept = FocalLoss(inner)(LOGITS, TARGETS, reduction_override='none')
    torch.testing.assert_close(kept, plain * torch.tensor([3.0, 6.0]))
    loss_obj = {'type': 'mmyolo_ext.FocalLoss', 'loss': {'type': 'mmyolo_ext.SlideLoss', 'loss': inner}}
    assert YOLOv5Head(loss_obj=loss_obj).obj_gain == 3.0


@pytest.mark.parametrize('inner', [BCE, THEIR_BCE])
def test_wrappers_compose_in_any_order(inner: dict) -> None:
    logits, targets = random_logits(6, 4), torch.rand(6, 4, generator=torch.Generator().manual_seed(1))
    focal_of_slide = FocalLoss({'type': 'mmyolo_ext.SlideLoss', 'loss': inner})
    slide_of_focal = SlideLoss({'type': 'mmyolo_ext.FocalLoss', 'loss': inner})
    elements = {'reduction_override': 'none'}
    by_hand = (
        BCELoss()(logits, targets, **elements)
        * (FocalLoss(BCE)(logits, targets, **elements) / BCELoss()(logits, targets, **elements))
        * (SlideLoss(BCE)(logits, targets, **elements) / BCELoss()(logits, targets, **elements))
    )
    torch.testing.assert_close(focal_of_slide(logits, targets, **elements), by_hand)
    torch.testing.assert_close(slide_of_focal(logits, targets, **elements), by_hand)


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'loss': {'type': 'mmdet.CrossEntropyLoss'}}, 'needs a binary loss .* here is a softmax'),
        ({'loss': BCE, 'alpha': 1.5}, 'alpha must be from 0 to 1, got 1.5'),
        ({'loss': BCE, 'use_sigmoid': False}, 'use_sigmoid=False, the BCELoss it wraps True'),
        ({'loss': BCE, 'reduction': 'median'}, 'reduction must be one of'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        FocalLoss(**kwargs)


def test_a_loss_that_is_not_element_wise_is_refused() -> None:
    summed = FocalLoss({'type': 'mmdet.QualityFocalLoss'})  # one number a row
    with pytest.raises(
        ValueError, match=r'QualityFocalLoss returned shape \(6,\) for logits of shape \(6, 4\), expected \(6, 4\)'
    ):
        summed(random_logits(6, 4), torch.rand(6, 4))
