"""CARAFE against a loop over output pixels and finite differences."""

import numpy as np
import torch
from mmcv.ops import carafe


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
