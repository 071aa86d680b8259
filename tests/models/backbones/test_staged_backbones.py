"""Every backbone of ours against what it declares: channels, strides, freezing, checkpointing, tracing, export."""

import math

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

import mmyolo_ext  # noqa: F401
from mmyolo_ext.models.backbones import MobileNetV3, ShuffleNetV2, YOLOv5CSPDarknet
from mmyolo_ext.models.backbones.shufflenet_v2 import ShuffleUnit
from mmyolo_ext.models.layers import STEMS, StemBlock

DARKNET = {'deepen_factor': 0.33, 'widen_factor': 0.125}
FORMS = [
    *(
        (YOLOv5CSPDarknet, {'arch': arch, 'version': version, **DARKNET})
        for arch in ('P5', 'P6')
        for version in ('v5', 'v6')
    ),
    *((ShuffleNetV2, {'widen_factor': width, 'stem': stem}) for width in (0.5, 1.0, 1.5, 2.0) for stem in STEMS),
    (ShuffleNetV2, {'stage_channels': (32, 48, 80), 'stage_blocks': (1, 2, 1)}),
    *(
        (MobileNetV3, {'arch': arch, 'widen_factor': width, 'stem': stem})
        for arch in ('small', 'large')
        for width in (0.5, 1.0)
        for stem in STEMS
    ),
    *((MobileNetV3, {'arch': arch, 'reduced_tail': True}) for arch in ('small', 'large')),
]
# one of each kind and stem, for what takes longer
KINDS = [
    (YOLOv5CSPDarknet, {'version': 'v5', **DARKNET}),
    (YOLOv5CSPDarknet, {'version': 'v6', **DARKNET}),
    *((ShuffleNetV2, {'widen_factor': 0.5, 'stem': stem}) for stem in STEMS),
    *((MobileNetV3, {'arch': 'small', 'widen_factor': 0.5, 'stem': stem}) for stem in STEMS),
    (MobileNetV3, {'arch': 'large', 'widen_factor': 0.5}),
]


def name(value) -> str:
    return value.__name__ if isinstance(value, type) else '-'.join(str(v) for v in value.values())


def picture(height: int, width: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(2, 3, height, width, generator=torch.Generator().manual_seed(seed))


def batch_norms(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, _BatchNorm)]


def statistics(module: nn.Module) -> list[torch.Tensor]:
    return [buffer.clone() for buffer in module.buffers()]


@pytest.mark.parametrize(('kind', 'form'), FORMS, ids=name)
@pytest.mark.parametrize('size_hw', [(64, 96), (70, 101)], ids=['even', 'odd'])
def test_outputs_are_as_declared(kind, form, size_hw):
    num_outputs = len(kind(**form).stage_strides)
    for out_indices in (None, (0,), (2,), (1, 3), tuple(range(num_outputs))):
        backbone = kind(**form, **({} if out_indices is None else {'out_indices': out_indices})).eval()
        with torch.no_grad():
            maps = backbone(picture(*size_hw))
        assert isinstance(maps, tuple)
        assert tuple(level.shape[1] for level in maps) == backbone.out_channels
        for level, stride in zip(maps, backbone.out_strides, strict=True):
            exact = [side / stride for side in size_hw]
            if kind is YOLOv5CSPDarknet:  # its 6x6/2 stem drops an odd row, all others round up
                assert all(
                    math.floor(e) <= side <= math.ceil(e) for e, side in zip(exact, level.shape[2:], strict=True)
                )
            else:
                assert level.shape[2:] == tuple(math.ceil(e) for e in exact)
        assert len(backbone.layers) == backbone.out_indices[-1] + 1


@pytest.mark.parametrize(('kind', 'form'), FORMS, ids=name)
def test_every_weight_gets_a_finite_gradient(kind, form):
    backbone = kind(**form).train()
    sum(level.square().mean() for level in backbone(picture(64, 96))).backward()
    without = [key for key, weight in backbone.named_parameters() if weight.grad is None]
    assert without == []
    assert all(torch.isfinite(weight.grad).all() for weight in backbone.parameters())
    assert sum(weight.grad.abs().sum() > 0 for weight in backbone.parameters()) == len(list(backbone.parameters()))


@pytest.mark.parametrize(('kind', 'form'), KINDS, ids=name)
def test_frozen_stages_neither_learn_nor_count(kind, form):
    for frozen in range(-1, len(kind(**form).layers)):
        backbone = kind(**form, frozen_stages=frozen).eval().train()
        before = [statistics(layer) for layer in backbone.layers]
        loss = sum(level.square().mean() for level in backbone(picture(64, 96)))
        if frozen + 1 < len(backbone.layers):
            loss.backward()
        for index, layer in enumerate(backbone.layers):
            held = index <= frozen
            assert all(weight.requires_grad is not held for weight in layer.parameters())
            assert all((weight.grad is None) == held for weight in layer.parameters())
            assert all(norm.training is not held for norm in batch_norms(layer))
            same = [torch.equal(a, b) for a, b in zip(before[index], statistics(layer), strict=True)]
            assert all(same) if held else not any(same)


@pytest.mark.parametrize(('kind', 'form'), KINDS, ids=name)
def test_norm_eval_stills_every_batch_norm(kind, form):
    backbone = kind(**form, norm_eval=True).train()
    before = statistics(backbone)
    backbone(picture(64, 96))
    assert backbone.training and not any(norm.training for norm in batch_norms(backbone))
    assert all(torch.equal(a, b) for a, b in zip(before, statistics(backbone), strict=True))
    assert all(weight.requires_grad for weight in backbone.parameters())
    assert all(norm.training for norm in batch_norms(kind(**form).eval().train()))


@pytest.mark.parametrize(('kind', 'form'), KINDS, ids=name)
def test_checkpointing_changes_no_number(kind, form):
    plain = kind(**form).train()
    saving = kind(**form, with_cp=True, frozen_stages=0).train()
    saving.load_state_dict(plain.state_dict())
    plain.frozen_stages = 0
    plain._freeze()
    passes = {}
    for backbone in (plain, saving):
        seen = passes.setdefault(backbone, [])
        for norm in batch_norms(backbone.layers[1]):
            norm.register_forward_hook(lambda *_, seen=seen: seen.append(1))
        for step in range(2):
            sum(level.square().mean() for level in backbone(picture(64, 96, step))).backward()
    assert len(passes[saving]) > len(passes[plain]), 'what is inside a stage was not computed again'
    for key, weight in plain.named_parameters():
        other = dict(saving.named_parameters())[key]
        assert (weight.grad is None) == (other.grad is None), key
        assert weight.grad is None or torch.equal(weight.grad, other.grad), key
    for (key, value), other in zip(plain.named_buffers(), saving.buffers(), strict=True):
        assert torch.equal(value, other), key
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(plain(picture(64, 96)), saving(picture(64, 96)), strict=True))


@pytest.mark.parametrize(('kind', 'form'), KINDS, ids=name)
def test_traced_and_exported_give_the_same(kind, form):
    backbone = kind(**form).eval()
    example, other = picture(64, 96), picture(64, 96, seed=1)
    with torch.no_grad():
        traced = torch.jit.trace(backbone, example)
        exported = torch.export.export(backbone, (example,)).module()
        for run in (traced, exported):
            for ours, theirs in zip(backbone(other), run(other), strict=True):
                torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize('act', ['ReLU', 'LeakyReLU', 'SiLU'])
@pytest.mark.parametrize('kind', [YOLOv5CSPDarknet, ShuffleNetV2, MobileNetV3])
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


def test_what_a_detector_keeps_of_them():
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


def test_a_stem_block_takes_the_place_of_the_first_stride():
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


@pytest.mark.parametrize(
    ('kind', 'form', 'message'),
    [
        (
            ShuffleNetV2,
            {'widen_factor': 3.0},
            r'widen_factor must be one of \(0.5, 1.0, 1.5, 2.0\), got 3.0; for another',
        ),
        (ShuffleNetV2, {'stage_channels': (24, 48)}, r'stage_channels must be three even numbers .* got \(24, 48\)'),
        (ShuffleNetV2, {'stage_channels': (24, 47, 96)}, 'stage_channels must be three even numbers'),
        (
            ShuffleNetV2,
            {'stage_blocks': (4, 0, 4)},
            r'stage_blocks must be three numbers of at least 1, got \(4, 0, 4\)',
        ),
        (ShuffleNetV2, {'stem': 'conv'}, r"stem must be one of \('conv_maxpool', 'stem_block', 'focus'\), got 'conv'"),
        (MobileNetV3, {'stem': 'patchify'}, "got 'patchify'"),
        (MobileNetV3, {'arch': 'tiny'}, r"arch must be one of \('large', 'small'\), got 'tiny'"),
        (MobileNetV3, {'widen_factor': 0.0}, 'widen_factor must be greater than 0, got 0.0'),
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
    ],
)
def test_wrong_numbers_are_named(kind, form, message):
    with pytest.raises(ValueError, match=message):
        kind(**form)
