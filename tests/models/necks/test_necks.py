"""Necks: one contract of channels, sizes and gradients; the fusion of ASFF by hand."""

import math

import pytest
import torch
import torch.nn.functional as F
from mmdet.models.necks import YOLOV3Neck

from mmyolo_ext.models.necks import ASFF, YOLOv3FPN, YOLOv3TinyFPN, YOLOv5PAFPN

CHANNELS = (8, 16, 24)


def maps(channels=CHANNELS, strides=(8, 16, 32), size_hw=(64, 96), seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randn(2, c, math.ceil(size_hw[0] / s), math.ceil(size_hw[1] / s), generator=generator)
        for c, s in zip(channels, strides, strict=True)
    ]


def shapes(levels) -> list[tuple]:
    return [tuple(level.shape) for level in levels]


NECKS = {
    'YOLOv5PAFPN': lambda channels: YOLOv5PAFPN(channels, (16, 24, 32), deepen_factor=0.33),
    'YOLOv5PAFPN scaled': lambda channels: YOLOv5PAFPN(channels, (64, 128, 256), widen_factor=0.25),
    'YOLOv3FPN': lambda channels: YOLOv3FPN(channels, (16, 24, 32)),
    'YOLOv3TinyFPN': lambda channels: YOLOv3TinyFPN(channels, (16, 24, 32)),
    'ASFF': ASFF,
}


@pytest.mark.parametrize('name', NECKS)
def test_outputs_are_as_declared_and_every_weight_gets_a_gradient(name: str) -> None:
    neck = NECKS[name](CHANNELS)
    # mmdet's YOLOV3Neck doubles the deeper map and takes no odd sizes
    for size_hw in [(64, 96), (256, 32)] + ([(56, 88), (50, 83), (1, 200)] if name != 'YOLOv3FPN' else []):
        inputs = maps(size_hw=size_hw)
        outputs = neck.eval()(inputs)
        assert isinstance(outputs, tuple)
        assert [level.shape[1] for level in outputs] == list(neck.out_channels)
        assert [level.shape[2:] for level in outputs] == [level.shape[2:] for level in inputs]
    sum(level.square().mean() for level in neck.train()(maps())).backward()
    assert all(p.grad.isfinite().all() and p.grad.abs().sum() > 0 for p in neck.parameters())


@pytest.mark.parametrize('kind', [YOLOv5PAFPN, YOLOv3FPN, YOLOv3TinyFPN])
def test_channels_that_do_not_fit(kind: type) -> None:
    with pytest.raises(ValueError, match="in_channels='auto' is filled in by mmyolo_ext.YOLODetector only"):
        kind('auto', (16, 24, 32))
    with pytest.raises(ValueError, match=r'one of out_channels for each of in_channels .* got in_channels=\(8, 16\)'):
        kind((8, 16), (16, 24, 32))


@pytest.mark.parametrize(
    ('channels', 'strides'),
    [((24, 16, 8), (32, 16, 8)), ((8, 16), (16, 32)), ((8, 8, 8, 8), (4, 8, 16, 32)), ((8, 16), (8, 32))],
)
def test_any_order_and_number_of_levels(channels: tuple, strides: tuple) -> None:
    inputs = maps(channels, strides, (50, 83))
    assert shapes(ASFF(channels, strides).eval()(inputs)) == shapes(inputs)


def test_behind_our_neck_and_mmdets() -> None:
    inputs = maps()
    ours = YOLOv5PAFPN(CHANNELS, (8, 16, 32)).eval()
    assert shapes(ASFF(ours.out_channels).eval()(ours(inputs))) == [(2, 8, 8, 12), (2, 16, 4, 6), (2, 32, 2, 3)]
    theirs = YOLOV3Neck(3, [24, 16, 8], [16, 8, 4]).eval()  # deep to shallow
    fused = ASFF(theirs.out_channels, strides=(32, 16, 8)).eval()(theirs(inputs))
    assert shapes(fused) == [(2, 16, 2, 3), (2, 8, 4, 6), (2, 4, 8, 12)]


def test_weights_sum_to_one() -> None:
    asff = ASFF(CHANNELS).eval()
    for fusion, width, size in zip(asff.fusions, CHANNELS, ((8, 12), (4, 6), (2, 3)), strict=True):
        same = torch.randn(3, 2, width, *size, generator=torch.Generator().manual_seed(0))
        weights = fusion.weights(list(same))
        assert weights.shape == (2, 3, *size)
        assert weights.min() > 0
        torch.testing.assert_close(weights.sum(1), torch.ones(2, *size))
        assert weights.std() > 0.01  # each cell chooses


def test_middle_level_written_out() -> None:
    """Equation 1 for level 2 of 3: x1 halved by a convolution, x2 as it is, x3 by a 1x1 convolution, then doubled."""
    torch.manual_seed(0)
    fusion = ASFF(CHANNELS).eval().fusions[1]
    x1, x2, x3 = inputs = maps()
    unit = (1 + 1e-3) ** -0.5  # of a fresh norm in eval mode, of variance 1

    def conv(block, x, **kwargs):
        return F.silu(F.conv2d(x, block.conv.weight, **kwargs) * unit)

    with torch.no_grad():
        same = [
            conv(fusion.resize[0][0], x1, stride=2, padding=1),
            x2,
            conv(fusion.resize[2], x3).repeat_interleave(2, 2).repeat_interleave(2, 3),
        ]
        votes = torch.cat([conv(vote, x) for vote, x in zip(fusion.votes, same, strict=True)], 1)
        scores = F.conv2d(votes, fusion.weigh.weight, fusion.weigh.bias).exp()
        mean = (
            sum(score[:, None] * x for score, x in zip(scores.unbind(1), same, strict=True)) / scores.sum(1)[:, None]
        )
        expected = conv(fusion.out_conv, mean, padding=1)
        torch.testing.assert_close(fusion(inputs), expected)


def test_weight_one_selects_a_single_level() -> None:
    fusion = ASFF(CHANNELS).eval().fusions[0]
    with torch.no_grad():
        fusion.weigh.weight.zero_()
        fusion.weigh.bias.copy_(torch.tensor([100.0, 0, 0]))
        inputs = maps()
        torch.testing.assert_close(fusion(inputs), fusion.out_conv(inputs[0]))


@pytest.mark.parametrize('strides', [(8, 16), (8, 8, 16), (8, 16, 24)])
def test_strides_that_do_not_fit(strides: tuple) -> None:
    with pytest.raises(ValueError, match='strides must be one for each of the 3 levels'):
        ASFF(CHANNELS, strides)


def test_channels_of_asff_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="in_channels='auto' is filled in by"):
        ASFF('auto')
    with pytest.raises(ValueError, match='ASFF needs two levels'):
        ASFF([8], [8])


def test_maps_of_other_strides() -> None:
    with pytest.raises(ValueError, match=r'ASFF\(strides=\(32, 16, 8\)\) got maps of other strides'):
        ASFF(CHANNELS, (32, 16, 8))(maps())
    with pytest.raises(ValueError, match='got maps of other strides'):
        ASFF(CHANNELS)(maps()[:2])
