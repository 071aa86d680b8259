"""Check CARAFE, masked convolution and sigmoid focal loss by loops, definitions and finite differences."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import carafe, masked_conv2d, sigmoid_focal_loss


def test_equals_the_loop() -> None:
    rng = np.random.RandomState(0)
    features, masks = rng.randn(2, 4, 3, 5), rng.randn(2, 2 * 9, 6, 10)
    expected = np.zeros((2, 4, 6, 10))
    padded = np.pad(features, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for n, c, y, x in np.ndindex(expected.shape):
        kernel = masks[n, c // 2 * 9 : c // 2 * 9 + 9, y, x].reshape(3, 3)
        expected[n, c, y, x] = (padded[n, c, y // 2 : y // 2 + 3, x // 2 : x // 2 + 3] * kernel).sum()
    output = carafe(torch.from_numpy(features), torch.from_numpy(masks), 3, 2, 2)
    np.testing.assert_allclose(output.numpy(), expected, atol=1e-12)


def test_gradients_equal_finite_differences() -> None:
    rng = np.random.RandomState(1)
    inputs = [torch.from_numpy(rng.randn(*shape)).requires_grad_() for shape in ((1, 2, 2, 3), (1, 9, 4, 6))]
    assert torch.autograd.gradcheck(lambda features, masks: carafe(features, masks, 3, 1, 2), inputs)


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_equals_the_convolution_where_asked_for(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(*shape, generator=generator) for shape in ((1, 3, 6, 8), (4, 3, 3, 5)))
    bias = torch.randn(4, generator=generator)
    mask = (torch.rand(1, 6, 8, generator=generator) < share).float()
    expected = F.conv2d(features, weight, bias, padding=(1, 2)) * mask
    assert torch.allclose(masked_conv2d(features, mask, weight, bias, (1, 2)), expected, atol=1e-5)


def test_sigmoid_by_hand() -> None:
    # sigma(0) = 1/2: positive -a (1/2)^g log(1/2) = 0.25 * 0.25 * log 2, negative 0.75 * 0.25 * log 2.
    # sigma(log 3) = 3/4: positive 0.25 * (1/4)^2 * -log(3/4), negative 0.75 * (3/4)^2 * -log(1/4).
    logits = torch.tensor([[0.0, 0.0], [math.log(3), math.log(3)]])
    loss = sigmoid_focal_loss(logits, torch.tensor([0, 1]), 2.0, 0.25, None, 'none')
    expected = [
        0.0625 * math.log(2),
        0.1875 * math.log(2),
        0.75 * 0.5625 * math.log(4),
        0.25 * 0.0625 * math.log(4 / 3),
    ]
    assert loss.flatten().tolist() == pytest.approx(expected, rel=1e-6)


def test_background_is_negative_for_every_class() -> None:
    # Class index C: both 0.75 * 0.25 * log 2.
    loss = sigmoid_focal_loss(torch.zeros(1, 2), torch.tensor([2]), 2.0, 0.25, None, 'sum')
    assert loss.item() == pytest.approx(2 * 0.1875 * math.log(2), rel=1e-6)


def test_sigmoid_equals_the_definition_from_cross_entropy() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(20, 5, generator=generator) * 4).requires_grad_()
    target = torch.randint(0, 6, (20,), generator=generator)
    weight = torch.rand(6, generator=generator)[:5]
    foreground = target.clamp(max=4)
    loss = sigmoid_focal_loss(logits, foreground, 1.5, 0.3, weight, 'mean')
    one_hot = F.one_hot(foreground, 5).float()
    p = logits.sigmoid()
    p_t = one_hot * p + (1 - one_hot) * (1 - p)
    entropy = F.binary_cross_entropy_with_logits(logits, one_hot, reduction='none')
    expected = (one_hot * 0.3 + (1 - one_hot) * 0.7) * (1 - p_t) ** 1.5 * entropy * weight[foreground][:, None]
    expected = expected.sum() / 20
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    ours, reference = (torch.autograd.grad(value, logits)[0] for value in (loss, expected))
    assert torch.allclose(ours, reference, atol=1e-6)


@pytest.mark.parametrize('weighted', [False, True])
def test_gradient_equals_finite_differences(weighted: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(6, 4, generator=generator, dtype=torch.double).requires_grad_()
    target = torch.tensor([0, 1, 2, 3, 3, 0])
    weight = torch.rand(4, generator=generator, dtype=torch.double) if weighted else None
    assert torch.autograd.gradcheck(lambda x: sigmoid_focal_loss(x, target, 2.0, 0.25, weight, 'mean'), (logits,))


def test_extreme_logits_stay_finite() -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    for target in (0, 1, 2):
        loss = sigmoid_focal_loss(logits, torch.tensor([target]), 2.0, 0.25, None, 'sum')
        assert loss.isfinite() and torch.autograd.grad(loss, logits)[0].isfinite().all()


def test_no_samples() -> None:
    logits = torch.zeros(0, 3, requires_grad=True)
    assert sigmoid_focal_loss(logits, torch.zeros(0, dtype=torch.long), 2.0, 0.25, None, 'sum').item() == 0
