"""Backbone and neck: what they declare is what they give, in every form."""

import itertools

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.layers import CSPLayer
from torch import nn

from mmyolo_ext.models.backbones import YOLOv5CSPDarknet
from mmyolo_ext.models.layers import SPPF, FocusStem, scaled_depth, scaled_width
from mmyolo_ext.models.necks import YOLOv5PAFPN

TINY = {'deepen_factor': 0.33, 'widen_factor': 0.125}
OUT_CHANNELS = {'P5': (256, 512, 1024), 'P6': (256, 512, 768, 1024)}
FORMS = list(itertools.product(('P5', 'P6'), ('v6', 'v5')))


@pytest.mark.parametrize(('arch', 'version'), FORMS)
@pytest.mark.parametrize('size_hw', [(64, 128), (97, 65), (70, 131)])
def test_declares_what_it_gives(arch: str, version: str, size_hw: tuple[int, int]) -> None:
    backbone = YOLOv5CSPDarknet(arch=arch, version=version, **TINY).eval()
    neck = YOLOv5PAFPN(backbone.out_channels, OUT_CHANNELS[arch], **TINY).eval()
    with torch.no_grad():
        maps = backbone(torch.rand(1, 3, *size_hw))
        fused = neck(maps)
    assert backbone.out_strides == (8, 16, 32, 64)[: len(maps)]
    for channels, stride, level in zip(backbone.out_channels, backbone.out_strides, maps, strict=True):
        assert level.shape[1] == channels
        for length, cells in zip(size_hw, level.shape[2:], strict=True):
            assert length // stride <= cells <= -(-length // stride)  # rounded down or up
    assert [level.shape[1] for level in fused] == list(neck.out_channels)
    assert [level.shape[2:] for level in fused] == [level.shape[2:] for level in maps]


@pytest.mark.parametrize('out_indices', [(0,), (1, 3), (2, 3, 4), (0, 1, 2, 3, 4)])
def test_out_indices(out_indices: tuple[int, ...]) -> None:
    backbone = YOLOv5CSPDarknet(out_indices=out_indices, **TINY).eval()
    maps = backbone(torch.rand(1, 3, 64, 64))
    assert [level.shape[1] for level in maps] == list(backbone.out_channels)
    assert [64 // level.shape[2] for level in maps] == list(backbone.out_strides)
    sum(level.sum() for level in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


def test_widths_and_depths() -> None:
    # 1024 * 0.33 = 337.9, up to 344 = 43 * 8; 64 * 0.25 = 16
    assert (scaled_width(1024, 0.33), scaled_width(64, 0.25)) == (344, 16)
    # 9 * 0.33 = 2.97; 3 * 1.33 = 3.99; never 0
    assert (scaled_depth(9, 0.33), scaled_depth(3, 1.33), scaled_depth(3, 0.1)) == (3, 4, 1)


@pytest.mark.parametrize(('version', 'depths'), [('v6', [3, 6, 9, 3]), ('v5', [3, 9, 9, 3])])
def test_form_of_the_releases(version: str, depths: list[int]) -> None:
    backbone = YOLOv5CSPDarknet(version=version, widen_factor=0.125)
    blocks = [module for module in backbone.modules() if isinstance(module, CSPLayer)]
    assert [len(block.blocks) for block in blocks] == depths
    last_shortcut = [block.blocks[0].add_identity for block in blocks]
    assert last_shortcut == ([True] * 4 if version == 'v6' else [True, True, True, False])
    assert isinstance(backbone.layers[0], FocusStem if version == 'v5' else ConvModule)
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {(norm.eps, norm.momentum) for norm in norms} == {(1e-3, 0.03)}


def test_p6_has_a_stage_of_768() -> None:
    assert YOLOv5CSPDarknet(arch='P6', widen_factor=0.25, deepen_factor=0.33).out_channels == (64, 128, 192, 256)


def test_chained_pools_equal_parallel_ones() -> None:
    """Three chained pools of 5 see what pools of 5, 9 and 13 see, so SPPF and SPP with the same weights agree."""
    from mmdet.models.backbones.csp_darknet import SPPBottleneck

    sppf, spp = SPPF(16, 24).eval(), SPPBottleneck(16, 24, act_cfg={'type': 'SiLU'}).eval()
    spp.load_state_dict(sppf.state_dict())
    x = torch.randn(2, 16, 9, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sppf(x), spp(x))


def test_focus_equals_a_convolution_of_6x6() -> None:
    """Space to depth and 3x3 is 6x6/2 with the kernel's rows and columns parted into even and odd."""
    torch.manual_seed(0)
    focus = FocusStem(3, 8, kernel_size=3, norm_cfg=None, act_cfg=None)
    kernel = focus.conv.conv.weight.detach()  # (8, 4 * 3, 3, 3), groups: even-even, odd-even, even-odd, odd-odd
    merged = torch.zeros(8, 3, 6, 6)
    for group, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        merged[:, :, row::2, column::2] = kernel[:, 3 * group : 3 * group + 3]
    x = torch.randn(1, 3, 10, 14)
    expected = nn.functional.conv2d(x, merged, focus.conv.conv.bias, stride=2, padding=2)
    torch.testing.assert_close(focus(x), expected)
    # an odd size is that of the picture with a row and a column of zeros
    odd = x[..., :9, :13]
    assert torch.equal(focus(odd), focus(nn.functional.pad(odd, (0, 1, 0, 1))))


@pytest.mark.parametrize('frozen_stages', [-1, 0, 2, 4])
def test_frozen_stages(frozen_stages: int) -> None:
    backbone = YOLOv5CSPDarknet(frozen_stages=frozen_stages, **TINY)
    for _ in range(2):
        for index, layer in enumerate(backbone.layers):
            is_frozen = index <= frozen_stages
            assert all(parameter.requires_grad != is_frozen for parameter in layer.parameters())
            assert all(module.training != is_frozen for module in layer.modules())
        backbone.eval()
        backbone.train()


def test_norm_eval() -> None:
    backbone = YOLOv5CSPDarknet(norm_eval=True, **TINY).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    backbone(torch.rand(2, 3, 64, 64))
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(parameter.requires_grad for parameter in backbone.parameters())


def test_every_convolution_starts_as_in_pytorch() -> None:
    """Uniform within 1 / sqrt(fan_in), stem included: its standard deviation is that over sqrt(3)."""
    torch.manual_seed(0)
    backbone = YOLOv5CSPDarknet(widen_factor=0.5, deepen_factor=0.33)
    neck = YOLOv5PAFPN(backbone.out_channels, OUT_CHANNELS['P5'], widen_factor=0.5)
    for part in (backbone, neck):
        part.init_weights()
        for conv in (module for module in part.modules() if isinstance(module, nn.Conv2d)):
            bound = conv.weight[0].numel() ** -0.5
            assert conv.weight.abs().max() <= bound
            assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    ('bad', 'message'),
    [
        ({'arch': 'P7'}, r"arch must be one of \('P5', 'P6'\), got 'P7'"),
        ({'version': 'v8'}, "version must be one of .*, got 'v8'"),
        ({'widen_factor': 0}, 'widen_factor must be greater than 0, got 0'),
        ({'deepen_factor': -1.0}, 'deepen_factor'),
        ({'out_indices': (2, 3, 5)}, r'from 0 \(stem\) to 4 \(last stage\), got \(2, 3, 5\)'),
        ({'out_indices': (3, 2)}, 'increasing'),
        ({'out_indices': ()}, 'out_indices'),
        ({'frozen_stages': 5}, r'from -1 \(none\) to 4, got 5'),
    ],
)
def test_bad_backbones(bad: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YOLOv5CSPDarknet(**{**TINY, **bad})


@pytest.mark.parametrize(
    ('in_channels', 'message'),
    [
        ('auto', 'YOLODetector'),
        ((8, 16), r'one of out_channels for each of in_channels; got in_channels=\(8, 16\)'),
    ],
)
def test_bad_necks(in_channels: tuple[int, ...] | str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        YOLOv5PAFPN(in_channels, (256, 512, 1024))
