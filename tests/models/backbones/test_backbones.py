"""One contract for all backbones: declared outputs, gradients, freezing, checkpointing, tracing, export, errors."""

import math

import pytest
import torch
from mmcv.cnn import ConvModule
from mmdet.models.backbones.csp_darknet import SPPBottleneck
from mmdet.models.layers import CSPLayer
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmyolo_ext  # noqa: F401
from mmyolo_ext.models.backbones import MobileNetV3, ShuffleNetV2, StagedBackbone, TinyDarknet, YOLOv5CSPDarknet
from mmyolo_ext.models.backbones.shufflenet_v2 import ShuffleUnit
from mmyolo_ext.models.layers import SPPF, STEMS, FocusStem, StemBlock, scaled_depth, scaled_width

NARROW = {'deepen_factor': 0.33, 'widen_factor': 0.125}
BACKBONES = {
    'YOLOv5 v5': (YOLOv5CSPDarknet, {'version': 'v5', **NARROW}),
    'YOLOv5 v6': (YOLOv5CSPDarknet, {'version': 'v6', **NARROW}),
    'YOLOv5 P6 v5': (YOLOv5CSPDarknet, {'arch': 'P6', 'version': 'v5', **NARROW}),
    'YOLOv5 P6 v6': (YOLOv5CSPDarknet, {'arch': 'P6', 'version': 'v6', **NARROW}),
    'TinyDarknet': (TinyDarknet, {}),
    **{f'ShuffleNetV2 0.5 {stem}': (ShuffleNetV2, {'widen_factor': 0.5, 'stem': stem}) for stem in STEMS},
    **{f'ShuffleNetV2 {width}': (ShuffleNetV2, {'widen_factor': width}) for width in (1.0, 1.5, 2.0)},
    'ShuffleNetV2 own': (ShuffleNetV2, {'stage_channels': (32, 48, 80), 'stage_blocks': (1, 2, 1)}),
    **{f'MobileNetV3 small {stem}': (MobileNetV3, {'widen_factor': 0.5, 'stem': stem}) for stem in STEMS},
    'MobileNetV3 large': (MobileNetV3, {'arch': 'large', 'widen_factor': 0.5}),
    'MobileNetV3 reduced': (MobileNetV3, {'arch': 'large', 'reduced_tail': True}),
}
# for what takes longer: every kind, stem and norm is among them
SOME = ['YOLOv5 v5', 'YOLOv5 v6', 'TinyDarknet', 'ShuffleNetV2 0.5 stem_block', 'MobileNetV3 small focus']


def build(name: str, **options) -> StagedBackbone:
    kind, arguments = BACKBONES[name]
    return kind(**{**arguments, **options})


def image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


@pytest.mark.parametrize('name', BACKBONES)
def test_outputs_are_as_declared(name: str) -> None:
    num_stages = len(build(name).stage_strides)
    for out_indices in (None, (0,), (1, 3), tuple(range(num_stages))):
        backbone = build(name, **({} if out_indices is None else {'out_indices': out_indices})).eval()
        assert len(backbone.layers) == backbone.out_indices[-1] + 1
        for size_hw in ((64, 96), (70, 101)):
            with torch.no_grad():
                maps = backbone(image(*size_hw))
            assert isinstance(maps, tuple)
            assert tuple(level.shape[1] for level in maps) == backbone.out_channels
            for level, stride in zip(maps, backbone.out_strides, strict=True):
                exact = [side / stride for side in size_hw]
                if 'v6' in name:  # its 6x6/2 stem drops an odd row, all others round up
                    sides = zip(exact, level.shape[2:], strict=True)
                    assert all(math.floor(e) <= side <= math.ceil(e) for e, side in sides)
                else:
                    assert level.shape[2:] == tuple(math.ceil(e) for e in exact)


@pytest.mark.parametrize('name', BACKBONES)
def test_every_weight_gets_a_finite_gradient(name: str) -> None:
    backbone = build(name).train()
    sum(level.square().mean() for level in backbone(image(64, 96))).backward()
    assert [key for key, weight in backbone.named_parameters() if weight.grad is None] == []
    assert all(weight.grad.isfinite().all() and weight.grad.abs().sum() > 0 for weight in backbone.parameters())


@pytest.mark.parametrize('name', SOME)
def test_frozen_stages_have_no_gradient_and_constant_statistics(name: str) -> None:
    for frozen in (-1, 0, 2, len(build(name).layers) - 1):
        backbone = build(name, frozen_stages=frozen).eval().train()
        before = [statistics(layer) for layer in backbone.layers]
        loss = sum(level.square().mean() for level in backbone(image(64, 96)))
        if frozen + 1 < len(backbone.layers):
            loss.backward()
        for index, layer in enumerate(backbone.layers):
            held = index <= frozen
            assert all(weight.requires_grad is not held for weight in layer.parameters())
            assert all((weight.grad is None) == held for weight in layer.parameters())
            assert all(module.training is not held for module in layer.modules())
            same = [torch.equal(a, b) for a, b in zip(before[index], statistics(layer), strict=True)]
            assert all(same) if held else not any(same)


@pytest.mark.parametrize('name', SOME)
def test_norm_eval(name: str) -> None:
    backbone = build(name, norm_eval=True).train()
    before = statistics(backbone)
    backbone(image(64, 96))
    assert backbone.training and not any(norm.training for norm in batch_norms(backbone))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(backbone), strict=True))
    assert all(weight.requires_grad for weight in backbone.parameters())
    assert all(norm.training for norm in batch_norms(build(name).eval().train()))


@pytest.mark.parametrize('name', SOME)
def test_checkpointing_changes_no_number(name: str) -> None:
    plain, saving = build(name, frozen_stages=0).train(), build(name, frozen_stages=0, with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    passes = {}
    for backbone in (plain, saving):
        seen = passes.setdefault(backbone, [])
        for norm in batch_norms(backbone.layers[1]):
            norm.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        for step in range(2):
            sum(level.square().mean() for level in backbone(image(64, 96, step))).backward()
    assert len(passes[saving]) > len(passes[plain]), 'the activations within a stage were not recomputed'
    for (key, weight), other in zip(plain.named_parameters(), saving.parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None), key
        assert weight.grad is None or torch.equal(weight.grad, other.grad), key
    for (key, value), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(value, other), key


@pytest.mark.parametrize('name', ['YOLOv5 v5', 'ShuffleNetV2 0.5 stem_block', 'MobileNetV3 small focus'])
def test_traced_and_exported_give_the_same(name: str) -> None:
    backbone = build(name, out_indices=(2,)).eval()
    example, other = image(64, 96), image(64, 96, seed=1)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, example)
        exported = torch.export.export(backbone, (example,)).module()
        for run in (traced, exported):
            torch.testing.assert_close(backbone(other)[0], run(other)[0], rtol=0, atol=1e-6)


@pytest.mark.parametrize('name', SOME)
def test_every_convolution_is_initialized_as_in_pytorch(name: str) -> None:
    """Uniform within 1 / sqrt(fan_in), stem included: its standard deviation is that over sqrt(3)."""
    torch.manual_seed(0)
    backbone = build(name)
    backbone.init_weights()
    for conv in (module for module in backbone.modules() if isinstance(module, nn.Conv2d)):
        bound = conv.weight[0].numel() ** -0.5
        assert conv.weight.abs().max() <= bound
        if conv.weight.numel() > 2000:
            assert conv.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.1)


@pytest.mark.parametrize(
    ('kind', 'act'),
    [(YOLOv5CSPDarknet, 'ReLU'), (ShuffleNetV2, 'SiLU'), (MobileNetV3, 'LeakyReLU'), (TinyDarknet, 'ReLU')],
)
def test_norm_and_activation_can_be_chosen(kind, act):
    norm = {'type': 'GN', 'num_groups': 2}
    backbone = kind(norm_cfg=norm, act_cfg={'type': act}, out_indices=(2,))
    parts = list(backbone.modules())
    assert not batch_norms(backbone) and any(isinstance(part, nn.GroupNorm) for part in parts)
    assert any(type(part).__name__ == act for part in parts)
    assert not any(isinstance(part, nn.Hardswish) for part in parts)


def count(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


@pytest.mark.parametrize(
    ('width', 'published', 'last'),
    [(0.5, 1_366_792, 1024), (1.0, 2_278_604, 1024), (1.5, 3_503_624, 1024), (2.0, 7_393_996, 2048)],
)
def test_shufflenet_has_the_published_size(width, published, last):
    backbone = ShuffleNetV2(width, out_indices=(4,))
    # the classifier: one linear layer of 1,000 classes on the last convolution
    assert count(backbone) + last * 1000 + 1000 == published


@pytest.mark.parametrize(
    ('arch', 'published', 'last', 'hidden'), [('small', 2_542_856, 576, 1024), ('large', 5_483_032, 960, 1280)]
)
def test_mobilenet_has_the_published_size(arch, published, last, hidden):
    backbone = MobileNetV3(arch, out_indices=(5,))
    # the classifier: two linear layers, of 1024 or 1280 and of 1,000 outputs
    assert count(backbone) + last * hidden + hidden + hidden * 1000 + 1000 == published


def test_parameters_without_the_classifier():
    # without classifier and last 1x1 convolution: 464 * 1024 + 2 * 1024 = 477,184; 96 * 576 + 2 * 576 = 56,448
    assert count(ShuffleNetV2(1.0)) == 2_278_604 - 1_025_000 - 477_184
    assert count(MobileNetV3('small')) == 2_542_856 - (576 * 1024 + 1024 + 1_025_000) - 56_448


def test_reduced_tail_halves_the_last_stage():
    full, reduced = (MobileNetV3('large', reduced_tail=tail, out_indices=(3, 4, 5)) for tail in (False, True))
    assert full.out_channels == (112, 160, 960) and reduced.out_channels == (112, 80, 480)
    # the first expansion of the tail stands before stride 32 and is kept
    assert [block.depthwise_conv.out_channels for block in reduced.layers[4]] == [672, 480, 480]


def test_a_mobilenet_at_another_width_rounds_to_eight():
    # 16, 24, 40, 112, 160 times 0.75: 12 -> 16 (8 would lose more than a tenth), 18 -> 24, 30 -> 32, 84 -> 88, 120
    backbone = MobileNetV3('large', widen_factor=0.75, out_indices=(0, 1, 2, 3, 4))
    assert backbone.out_channels == (16, 24, 32, 88, 120)
    # expanded 16, 64, 72 times 0.75: 12 -> 16, 48, 54 -> 56
    assert [block.depthwise_conv.out_channels for block in backbone.layers[1]] == [16, 48, 56]


def test_a_chosen_activation_is_that_of_every_block():
    backbone = MobileNetV3('small', act_cfg={'type': 'LeakyReLU'})
    blocks = [block for stage in backbone.layers[1:] for block in stage]
    assert {type(block.depthwise_conv.activate) for block in blocks} == {nn.LeakyReLU}


def test_stem_block_includes_the_first_stride():
    plain, block = (MobileNetV3('large', stem=stem, out_indices=(0, 1, 2)) for stem in ('conv_maxpool', 'stem_block'))
    assert plain.out_strides == (2, 4, 8) and block.out_strides == (4, 4, 8)


def test_stem_block_follows_the_figure():
    # 3 -> 32 at stride 2; 1x1 to 16, 3x3/2 to 32 beside a max-pool; 1x1 of 64 to 32; each with 2 * BN
    block = StemBlock(3, 32, norm_cfg={'type': 'BN'}, act_cfg={'type': 'ReLU'})
    convs = 27 * 32 + 32 * 16 + 9 * 16 * 32 + 64 * 32
    assert count(block) == convs + 2 * (32 + 16 + 32 + 32)
    x = torch.rand(1, 3, 9, 13)
    block.eval()
    pooled = nn.functional.max_pool2d(nn.functional.pad(block.conv(x), (0, 1, 0, 1), value=-math.inf), 2)
    expected = block.fuse(torch.cat([block.branch_conv(block.conv(x)), pooled], 1))
    torch.testing.assert_close(block(x), expected)
    assert expected.shape == (1, 32, 3, 4)


def test_shuffle_unit_keeps_one_half_and_interleaves():
    unit = ShuffleUnit(6, 6, 1, {'type': 'BN'}, {'type': 'ReLU'}).eval()
    x = torch.rand(1, 6, 4, 5)
    worked = unit.branch2(x[:, 3:])
    expected = [x[:, 0], worked[:, 0], x[:, 1], worked[:, 1], x[:, 2], worked[:, 2]]
    for channel, wanted in enumerate(expected):
        assert torch.equal(unit(x)[:, channel], wanted)


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
    """Three chained pools of 5 equal pools of 5, 9 and 13, so SPPF and SPP with the same weights agree."""
    sppf, spp = SPPF(16, 24).eval(), SPPBottleneck(16, 24, act_cfg={'type': 'SiLU'}).eval()
    spp.load_state_dict(sppf.state_dict())
    x = torch.randn(2, 16, 9, 14, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(sppf(x), spp(x))


def test_focus_equals_a_convolution_of_6x6() -> None:
    """Space to depth and 3x3 is 6x6/2 with the even and odd rows and columns of the kernel separated."""
    torch.manual_seed(0)
    focus = FocusStem(3, 8, kernel_size=3, norm_cfg=None, act_cfg=None)
    kernel = focus.conv.conv.weight.detach()  # (8, 4 * 3, 3, 3), groups: even-even, odd-even, even-odd, odd-odd
    merged = torch.zeros(8, 3, 6, 6)
    for group, (row, column) in enumerate([(0, 0), (1, 0), (0, 1), (1, 1)]):
        merged[:, :, row::2, column::2] = kernel[:, 3 * group : 3 * group + 3]
    x = torch.randn(1, 3, 10, 14)
    expected = nn.functional.conv2d(x, merged, focus.conv.conv.bias, stride=2, padding=2)
    torch.testing.assert_close(focus(x), expected)
    # an odd size is that of the image with a row and a column of zeros
    odd = x[..., :9, :13]
    assert torch.equal(focus(odd), focus(nn.functional.pad(odd, (0, 1, 0, 1))))


@pytest.mark.parametrize(
    ('kind', 'form', 'message'),
    [
        (
            ShuffleNetV2,
            {'widen_factor': 3.0},
            r'widen_factor must be one of \(0.5, 1.0, 1.5, 2.0\), got 3.0; for another',
        ),
        (ShuffleNetV2, {'stage_channels': (24, 48)}, 'longer than'),
        (ShuffleNetV2, {'stem': 'conv'}, r"stem must be one of \('conv_maxpool', 'stem_block', 'focus'\), got 'conv'"),
        (MobileNetV3, {'stem': 'patchify'}, "got 'patchify'"),
        (MobileNetV3, {'arch': 'tiny'}, r"arch must be one of \('large', 'small'\), got 'tiny'"),
        (MobileNetV3, {'out_indices': (2, 6)}, r'from 0 \(stem\) to 5 \(last stage\), got \(2, 6\)'),
        (
            ShuffleNetV2,
            {'out_indices': (3, 2)},
            r'increasing numbers from 0 \(stem\) to 4 \(last stage\), got \(3, 2\)',
        ),
        (ShuffleNetV2, {'out_indices': ()}, 'out_indices'),
        (ShuffleNetV2, {'out_indices': (-1,)}, 'out_indices'),
        (ShuffleNetV2, {'frozen_stages': 5}, r'frozen_stages must be from -1 \(none\) to 4, got 5'),
        (MobileNetV3, {'frozen_stages': -2}, 'frozen_stages'),
        (YOLOv5CSPDarknet, {'arch': 'P7'}, r"arch must be one of \('P5', 'P6'\), got 'P7'"),
        (YOLOv5CSPDarknet, {'version': 'v8'}, "version must be one of .*, got 'v8'"),
    ],
)
def test_wrong_numbers_are_named(kind, form, message):
    with pytest.raises(ValueError, match=message):
        kind(**form)
