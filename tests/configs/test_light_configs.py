"""Test the light detectors: each takes a step on real images, and costs what docs/guides/backbones.md states."""

from pathlib import Path

import pytest
import torch
from bccd_step import step_on_bccd
from mmengine.registry import MODELS, init_default_scope
from tiny_coco import REPO

from mmyolo_ext.apis import load_config
from mmyolo_ext.cli import flops

LIGHT = REPO / 'configs' / 'light'
STEMS = ('', '-stemblock', '-focus')
NAMES = (
    *(f'shufflenetv2-{width}{stem}' for width in ('0.5', '1.0') for stem in STEMS),
    *('mobilenetv3-small', 'mobilenetv3-large'),
)
DATA = ('640_coco', '320_bccd')
CLASSES = {'640_coco': 80, '320_bccd': 3}
PATHS = {f'{name}_{data}': LIGHT / f'yolov5_{name}_{data}.py' for name in NAMES for data in DATA}
COMPARED = {
    'yolov5n': REPO / 'configs/yolov5/yolov5_n_640_coco.py',
    'yolov5s': REPO / 'configs/yolov5/yolov5_s_640_coco.py',
}

# torchvision's networks, from their documentation, with their classifiers of 1000 classes
TORCHVISION = {'0.5': 1_366_792, '1.0': 2_278_604, 'small': 2_542_856, 'large': 5_483_032}
NECK_CHANNELS = {'0.5': 64, '1.0': 96, 'small': 64, 'large': 128}
FEATURES = {'0.5': (48, 96, 192), '1.0': (116, 232, 464), 'small': (24, 48, 96), 'large': (40, 112, 160)}
IMAGENET_MEAN = [123.675, 116.28, 103.53]


def test_these_are_all():
    assert sorted(PATHS.values()) == sorted(LIGHT.glob('*.py'))


@pytest.mark.parametrize('name', NAMES)
def test_a_light_config_takes_a_step_on_real_images(name, bccd_coco):
    model = step_on_bccd(PATHS[f'{name}_320_bccd'], bccd_coco)
    kind = name.split('-')[1]
    assert model.backbone.out_channels == FEATURES[kind] and model.backbone.out_strides == (8, 16, 32)
    assert model.neck.out_channels == 3 * (NECK_CHANNELS[kind],)


def conv_bn(before: int, after: int, kernel: int = 1) -> int:
    """Parameters of a convolution without bias, and of its batch norm."""
    return before * after * kernel**2 + 2 * after


def csp(before: int, after: int) -> int:
    """Of a CSP block with one bottleneck: 1x1 a, 1x1 b, 1x1 and 3x3 on a, 1x1 on both."""
    half = after // 2
    return 2 * conv_bn(before, half) + conv_bn(half, half) + conv_bn(half, half, 3) + conv_bn(after, after)


def neck_parameters(features: tuple[int, ...], outs: tuple[int, ...]) -> int:
    """Of the path-aggregation neck on three levels."""
    reduce = conv_bn(features[2], outs[1]) + conv_bn(outs[1], outs[0])
    down = csp(outs[1] + features[1], outs[1]) + csp(outs[0] + features[0], outs[0])
    up = conv_bn(outs[0], outs[0], 3) + conv_bn(outs[1], outs[1], 3)
    return reduce + down + up + csp(2 * outs[0], outs[1]) + csp(2 * outs[1], outs[2])


def backbone_parameters(kind: str, stem: str) -> int:
    """Of torchvision's network, without what stands after the last stage, with another stem."""
    if kind in ('small', 'large'):
        last, hidden = {'small': (576, 1024), 'large': (960, 1280)}[kind]
        # the last 1x1 convolution, a hidden linear layer, the classifier
        return TORCHVISION[kind] - conv_bn(last // 6, last) - (last + 1) * hidden - (hidden + 1) * 1000
    paper = TORCHVISION[kind] - conv_bn(FEATURES[kind][2], 1024) - 1025 * 1000
    other = {
        '': conv_bn(3, 24, 3),
        # 3x3, then 1x1 to half and 3x3 back beside a pool, then 1x1 over both
        'stemblock': conv_bn(3, 24, 3) + conv_bn(24, 12) + conv_bn(12, 24, 3) + conv_bn(48, 24),
        'focus': conv_bn(4 * 3, 24, 3),
    }
    return paper - other[''] + other[stem]


def parameters_by_hand(name: str, num_classes: int) -> dict[str, int]:
    """Of backbone, neck, head and all of them."""
    _, kind, stem = (*name.split('-'), '')[:3]
    channels = NECK_CHANNELS[kind]
    parts = {
        'backbone': backbone_parameters(kind, stem),
        'neck': neck_parameters(FEATURES[kind], 3 * (channels,)),
        'head': 3 * 3 * (num_classes + 5) * (channels + 1),
    }
    return {**parts, 'total': sum(parts.values())}


def documented() -> dict[str, list[str]]:
    """The rows of the first table of docs/guides/backbones.md, by their first cell."""
    lines = (REPO / 'docs/guides/backbones.md').read_text(encoding='utf-8').splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith('| NAME'))
    table = lines[start + 2 : lines.index('', start)]
    rows = [[cell.strip() for cell in line.strip('|').split('|')] for line in table]
    return {name: cells for name, *cells in rows}


def measured(path: Path) -> list[str]:
    """The cells of a detector's row after its stem, as the tool gives them."""
    model = flops.build(load_config(path))
    large, small = (flops.count(model, (side, side)) for side in (640, 320))
    return [
        ', '.join(str(channels) for channels in model.neck.out_channels),
        f'{flops.parameters(model)["total"]:,}',
        *(f'{counted["flops"]["total"] / 1e9:.3f}' for counted in (large, small)),
        *(f'{large["macs"][part] / 1e9:.3f}' for part in ('backbone', 'neck', 'head')),
    ]


def test_the_table_has_a_row_for_each_detector():
    assert list(documented()) == [*NAMES, *COMPARED]


@pytest.mark.parametrize('name', [*NAMES, *COMPARED])
def test_the_table_has_what_the_tool_measures(name):
    path = PATHS.get(f'{name}_640_coco') or COMPARED[name]
    stem, *cells = documented()[name]
    assert cells == measured(path)
    if name in NAMES:
        assert stem == load_config(path).model.backbone.get('stem', 'conv_maxpool')


@pytest.mark.parametrize('data', DATA)
@pytest.mark.parametrize('name', NAMES)
def test_parameters_by_hand(name, data):
    model = flops.build(load_config(PATHS[f'{name}_{data}']))
    assert flops.parameters(model) == parameters_by_hand(name, CLASSES[data])


def test_numbers_in_the_text():
    text = ' '.join((REPO / 'docs/guides/backbones.md').read_text(encoding='utf-8').split())
    equal, doubling = (neck_parameters(FEATURES['1.0'], outs) for outs in ((96, 96, 96), (64, 128, 256)))
    assert f'with {equal:,} parameters; 64, 128, 256' in text and f'0.722 GMACs with {doubling:,}.' in text
    options = {'model.neck.out_channels': (64, 128, 256), 'model.neck.widen_factor': 1.0}
    model = flops.build(load_config(PATHS['shufflenetv2-1.0_640_coco'], options))
    assert flops.parameters(model)['neck'] == doubling
    assert round(flops.count(model, (640, 640))['macs']['neck'] / 1e9, 3) == 0.722


@pytest.mark.parametrize('name', PATHS)
def test_images_are_normalised_as_the_pretrained_weights_expect(name):
    model = load_config(PATHS[name]).model
    pretrained = name in {f'{known}_640_coco' for known in NAMES if not known.endswith(STEMS[1:])}
    assert (model.backbone.get('init_cfg') is not None) == pretrained
    assert model.data_preprocessor.mean == (IMAGENET_MEAN if pretrained else [0, 0, 0])
    assert model.data_preprocessor.bgr_to_rgb
    # the grey of the letterbox, 114 of 255, after normalization, about
    mean, std = model.data_preprocessor.mean[1], model.data_preprocessor.std[1]
    assert model.data_preprocessor.pad_value == pytest.approx((114 - mean) / std, abs=0.05)
    if pretrained:
        checkpoint = model.backbone.init_cfg.checkpoint.rsplit('/', 1)[1]
        files = {'0.5': 'shufflenetv2_x0.5-', '1.0': 'shufflenetv2_x1-', 'small': 'mobilenet_v3_small-'}
        kind = name.split('_')[0].split('-')[1]
        assert checkpoint.startswith(files.get(kind, 'mobilenet_v3_large-'))


@pytest.mark.parametrize(
    ('name', 'file', 'theirs', 'ours'),
    [
        # the stem, and a 1x1 convolution of the last stage
        ('shufflenetv2-0.5', 'shufflenet_v2_x0_5', 'conv1.0.weight', 'layers.0.conv.conv.weight'),
        ('shufflenetv2-0.5', 'shufflenet_v2_x0_5', 'stage4.3.branch2.5.weight', 'layers.3.3.branch2.2.conv.weight'),
        ('mobilenetv3-small', 'mobilenet_v3_small', 'features.0.0.weight', 'layers.0.conv.conv.weight'),
        (
            'mobilenetv3-small',
            'mobilenet_v3_small',
            'features.11.block.3.0.weight',
            'layers.4.2.linear_conv.conv.weight',
        ),
    ],
)
def test_a_detector_starts_from_the_weights_of_torchvision(name, file, theirs, ours, golden_dir):
    checkpoint = golden_dir / f'torchvision_{file}.pth'
    options = {'model.backbone.init_cfg.checkpoint': str(checkpoint)}
    cfg = load_config(PATHS[f'{name}_640_coco'], options)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    expected = torch.load(checkpoint, weights_only=True)[theirs]
    assert torch.equal(model.backbone.get_parameter(ours), expected)
