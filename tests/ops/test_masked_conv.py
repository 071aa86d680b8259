"""A convolution computed at some pixels only."""

import pytest
import torch
import torch.nn.functional as F
from mmcv.ops import masked_conv2d


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_equals_the_convolution_where_asked_for(share: float) -> None:
    generator = torch.Generator().manual_seed(0)
    features, weight = (torch.randn(*shape, generator=generator) for shape in ((1, 3, 6, 8), (4, 3, 3, 5)))
    bias = torch.randn(4, generator=generator)
    mask = (torch.rand(1, 6, 8, generator=generator) < share).float()
    expected = F.conv2d(features, weight, bias, padding=(1, 2)) * mask
    assert torch.allclose(masked_conv2d(features, mask, weight, bias, (1, 2)), expected, atol=1e-5)
