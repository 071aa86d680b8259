"""Slide weighting: its regions and their borders, where the mean comes from, and what passes no gradient."""

import math

import pytest
import torch

import mmyolo_ext  # noqa: F401  (registers the scope)
from mmyolo_ext.models.losses import BCELoss, SlideLoss
from mmyolo_ext.models.losses.class_losses import slide_weight
from mmyolo_ext.models.losses.utils import Quality, mean_quality

BCE = {'type': 'mmyolo_ext.BCELoss'}
SOFTMAX = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': False}
HALVES = (torch.bfloat16, torch.float16)
SLIDES = {
    'target': {'loss': BCE},
    'quality': {'loss': BCE, 'follow': 'quality'},
    'softmax': {'loss': SOFTMAX},
    'focal': {'loss': {'type': 'mmyolo_ext.FocalLoss', 'loss': BCE}},
}


def elements(loss: torch.nn.Module, *args, **kwargs) -> torch.Tensor:
    return loss(*args, reduction_override='none', **kwargs)


def factors(loss: SlideLoss, logits: torch.Tensor, target, **kwargs) -> torch.Tensor:
    """What each binary element was multiplied by."""
    return elements(loss, logits, target, **kwargs) / elements(BCELoss(), logits, target)


def test_three_regions_and_their_borders() -> None:
    # mu = 0.6: 1 up to 0.5 inclusive, exp(0.4) between 0.5 and 0.6, exp(1 - y) from 0.6
    values = torch.tensor([0.0, 0.3, 0.5, 0.5001, 0.55, 0.5999, 0.6, 0.8, 1.0], dtype=torch.float64)
    plateau = math.exp(0.4)
    expected = [1, 1, 1, plateau, plateau, plateau, plateau, math.exp(0.2), 1]
    weight = slide_weight(values, torch.tensor(0.6, dtype=torch.float64))
    assert weight.tolist() == pytest.approx(expected, rel=1e-12)


def test_a_mean_below_a_fifth_counts_as_a_fifth() -> None:
    values = torch.tensor([0.05, 0.1, 0.15, 0.2, 0.5])
    expected = [1, 1, math.exp(0.8), math.exp(0.8), math.exp(0.5)]
    for mean in (-0.3, 0.0, 0.1, 0.2):
        assert slide_weight(values, torch.tensor(mean)).tolist() == pytest.approx(expected)


def test_mean_of_no_positives_is_a_half() -> None:
    assert mean_quality(torch.zeros(0)).item() == 0.5
    assert mean_quality(torch.tensor([0.2, -0.4])).item() == pytest.approx(-0.1)


def test_weight_passes_no_gradient() -> None:
    quality = torch.tensor([0.45, 0.7], requires_grad=True)
    assert not slide_weight(quality, quality.mean()).requires_grad
    logits = torch.tensor([[0.3], [-0.8]], requires_grad=True)
    target = Quality(quality, quality.mean())
    (gradient,) = torch.autograd.grad(SlideLoss(BCE)(logits, quality[:, None], quality=target).sum(), logits)
    # mu = 0.575: both are above 0.475 or not: 0.45 weighs 1, 0.7 weighs exp(0.3); d BCE / d logit = p - y; mean of 2
    weight = torch.tensor([[1.0], [math.exp(0.3)]])
    expected = weight * (logits.detach().sigmoid() - quality.detach()[:, None]) / 2
    torch.testing.assert_close(gradient, expected)


def test_the_mean_given_by_the_head_rules() -> None:
    logits, target = torch.tensor([[0.0], [0.0], [1.0]]), torch.tensor([[0.0], [0.45], [0.9]])
    given = Quality(target.flatten(), torch.tensor(0.5))
    expected = [1, math.exp(0.5), math.exp(0.1)]
    assert factors(SlideLoss(BCE), logits, target, quality=given).flatten().tolist() == pytest.approx(expected)


def test_mean_of_labels_with_quality() -> None:
    # mmdet's quality focal heads: label 2 of 2 classes is background; mean over the objects (0.6 + 0.8) / 2 = 0.7
    labels, quality = torch.tensor([1, 2, 0]), torch.tensor([0.6, 0.0, 0.8])
    factor = factors(SlideLoss(BCE), torch.zeros(3, 2), (labels, quality))
    # 0.8 weighs exp(0.2), zeros 1
    assert factor[2].tolist() == pytest.approx([math.exp(0.2), 1])
    assert factor[1].tolist() == pytest.approx([1, 1])
    near = factors(SlideLoss(BCE), torch.zeros(3, 2), (labels, torch.tensor([0.65, 0.0, 0.75])))
    # the mean is the same, 0.65 lies on the plateau
    assert near[0].tolist() == pytest.approx([1, math.exp(0.3)])


def test_mean_of_soft_rows() -> None:
    # mmdet's varifocal heads: the quality in the class's column; objects are rows with any: mean (0.65 + 0.75) / 2
    rows = torch.tensor([[0.0, 0.65], [0.0, 0.0], [0.75, 0.0]])
    expected = [1, math.exp(0.3), 1, 1, math.exp(0.25), 1]
    assert factors(SlideLoss(BCE), torch.zeros(3, 2), rows).flatten().tolist() == pytest.approx(expected)


def test_plain_labels_weigh_one() -> None:
    logits, labels = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 2, 3, 1])
    for follow in ('target', 'quality'):
        slide = SlideLoss(BCE, follow=follow)
        torch.testing.assert_close(elements(slide, logits, labels), elements(BCELoss(), logits, labels))


def test_following_the_quality_weighs_whole_samples() -> None:
    labels = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    given = Quality(torch.tensor([0.45, 0.8]), torch.tensor(0.5))
    expected = [math.exp(0.5)] * 2 + [math.exp(0.2)] * 2
    slide = SlideLoss(BCE, follow='quality')
    assert factors(slide, torch.zeros(2, 2), labels, quality=given).flatten().tolist() == pytest.approx(expected)


@pytest.mark.parametrize('smooth', [False, True])
def test_softmax_follows_the_quality(smooth: bool) -> None:
    logits = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([2, 0, 3])
    shares = 0.9 * torch.nn.functional.one_hot(labels, 4) + 0.1 / 4
    given = Quality(torch.tensor([0.2, 0.45, 0.8]), torch.tensor(0.5))
    actual = elements(SlideLoss(SOFTMAX), logits, shares if smooth else labels, quality=given)
    cross_entropy = -(shares * logits.log_softmax(1)).sum(1) if smooth else -logits.log_softmax(1)[range(3), labels]
    weight = torch.tensor([1.0, math.exp(0.5), math.exp(0.2)])
    torch.testing.assert_close(actual, cross_entropy * weight)
    # no quality: as the wrapped loss alone
    torch.testing.assert_close(elements(SlideLoss(SOFTMAX), logits, shares), -(shares * logits.log_softmax(1)).sum(1))


def test_softmax_keeps_class_weights() -> None:
    logits, labels = torch.zeros(2, 2), torch.tensor([0, 1])
    slide = SlideLoss({**SOFTMAX, 'class_weight': [1.0, 3.0], 'loss_weight': 2.0})
    assert elements(slide, logits, labels).tolist() == pytest.approx([2 * math.log(2), 6 * math.log(2)])


@pytest.mark.parametrize('dtype', HALVES)
def test_borders_in_half_precision(dtype: torch.dtype) -> None:
    # these are exact in both: mu = 1/2, so 1 up to 0.4, exp(1/2) up to 1/2, then exp(1 - y)
    values = torch.tensor([0.25, 0.375, 0.4375, 0.5, 0.75, 1.0])
    expected = [1, 1, math.exp(0.5), math.exp(0.5), math.exp(0.25), 1]
    for mean in (torch.tensor(0.5), torch.tensor(0.5, dtype=dtype)):
        weight = slide_weight(values.to(dtype), mean)
        assert weight.dtype == torch.float32
        assert weight.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('config', SLIDES)
def test_half_logits_give_what_their_values_give_in_float32(dtype: torch.dtype, config: str) -> None:
    half = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
    full = half.detach().float().requires_grad_()
    slide = SlideLoss(**SLIDES[config])
    quality = torch.tensor([0.0, 0.399, 0.401, 0.5, 0.9])
    target = torch.arange(5) % 3 if not slide.use_sigmoid else quality[:, None].expand(5, 3)
    given = Quality(quality, torch.tensor(0.5))
    expected = slide(full, target, quality=given)
    with torch.autocast('cpu', dtype=dtype):
        actual = slide(half, target, quality=given)
    assert actual.dtype == torch.float32
    torch.testing.assert_close(actual, expected)
    actual.backward()
    expected.backward()
    assert half.grad.abs().min() > 0
    torch.testing.assert_close(half.grad, full.grad.to(dtype))


@pytest.mark.parametrize('dtype', HALVES)
@pytest.mark.parametrize('follow', ['target', 'quality'])
def test_a_quality_in_half_precision_counts_with_its_own_value(dtype: torch.dtype, follow: str) -> None:
    """As heads of mmdet give it under AMP: labels, and the IoU of half-precision boxes."""
    logits, labels = torch.zeros(4, 2), torch.tensor([0, 1, 1, 2])
    scores = torch.tensor([0.43, 0.61, 0.52, 0.0]).to(dtype)
    slide = SlideLoss(BCE, follow=follow)
    torch.testing.assert_close(
        elements(slide, logits, (labels, scores)), elements(slide, logits, (labels, scores.float())), rtol=0, atol=0
    )


@pytest.mark.parametrize('target', [torch.zeros(0, 3), torch.zeros(0).long(), (torch.zeros(0).long(), torch.zeros(0))])
@pytest.mark.parametrize('dtype', [torch.float32, *HALVES])
def test_empty_input(target, dtype: torch.dtype) -> None:
    logits = torch.zeros(0, 3, dtype=dtype, requires_grad=True)
    for follow in ('target', 'quality'):
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype != torch.float32):
            loss = SlideLoss(BCE, follow=follow)(logits, target, avg_factor=1)
        loss.backward()
        assert loss.item() == 0
        assert loss.dtype == torch.float32
        assert logits.grad.shape == (0, 3)


def test_empty_input_of_a_softmax() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    given = Quality(torch.zeros(0), mean_quality(torch.zeros(0)))
    loss = SlideLoss(SOFTMAX)(logits, torch.zeros(0).long(), avg_factor=1, quality=given)
    loss.backward()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ('kwargs', 'message'),
    [
        ({'loss': BCE, 'follow': 'me'}, "one of .*target.*quality.*got 'me'"),
        ({'loss': SOFTMAX, 'follow': 'target'}, r"one of \('quality',\) for CrossEntropyLoss, got 'target'"),
        ({'loss': SOFTMAX, 'use_sigmoid': True}, 'use_sigmoid=True, the CrossEntropyLoss it wraps False'),
    ],
)
def test_bad_arguments(kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SlideLoss(**kwargs)
