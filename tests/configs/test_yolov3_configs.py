"""Test the YOLOv3 configs: the published parameters, from the layers of the paper, and the levels."""

import pytest
import torch
from mmengine.registry import MODELS
from tiny_coco import REPO

from mmyolo_ext.apis import load_config

FOLDER = REPO / 'configs' / 'yolov3'
PREDICTIONS = 3 * (5 + 80)


def build(name: str, device: str = 'meta') -> torch.nn.Module:
    with torch.device(device):
        return MODELS.build(load_config(FOLDER / f'{name}.py').model)


def parameters(layers: list[tuple[int, int, int]]) -> int:
    """Of 3x3 or 1x1 convolutions (in, out, kernel) without bias, each under a batch norm."""
    return sum(before * width * kernel**2 + 2 * width for before, width, kernel in layers)


def predictions(*channels: int) -> int:
    return sum((width + 1) * PREDICTIONS for width in channels)


def darknet53_layers() -> list[tuple[int, int, int]]:
    """Table 1 of arXiv 1804.02767, without the classifier."""
    layers = [(3, 32, 3)]
    for width, blocks in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        layers += [(width // 2, width, 3), *[(width, width // 2, 1), (width // 2, width, 3)] * blocks]
    return layers


def neck_layers() -> list[tuple[int, int, int]]:
    layers = []
    for joined, width in ((1024, 512), (512 + 256, 256), (256 + 128, 128)):
        layers += [(joined, width, 1), (width, 2 * width, 3)]
        layers += [(2 * width, width, 1), (width, 2 * width, 3)] * 2
    return [*layers, (512, 256, 1), (256, 128, 1)]


def test_yolov3_has_the_published_parameters() -> None:
    layers = [*darknet53_layers(), *neck_layers()]
    assert (len(darknet53_layers()), len(layers) + 3) == (52, 75)  # 75 convolutions, three of them predict
    # 248,007,048 bytes of the published weights = 20 of the header + 4 for each of 62,001,757 numbers, of which the
    # running means and variances, two for each channel under a batch norm, are no parameters
    statistics = 2 * sum(width for _, width, _ in layers)
    assert statistics == 52_608
    assert parameters(layers) + predictions(1024, 512, 256) == 62_001_757 - statistics == 61_949_149
    assert sum(p.numel() for p in build('yolov3_darknet53_640_coco').parameters()) == 61_949_149


def test_tiny_has_the_published_parameters() -> None:
    widths = (3, 16, 32, 64, 128, 256, 512, 1024)
    layers = [(before, width, 3) for before, width in zip(widths[:-1], widths[1:], strict=True)]
    layers += [(1024, 256, 1), (256, 512, 3), (256, 128, 1), (256 + 128, 256, 3)]
    # the published weights hold 8,858,734 numbers, the running statistics of 3184 channels among them
    statistics = 2 * sum(width for _, width, _ in layers)
    assert statistics == 6_368
    assert parameters(layers) + predictions(512, 256) == 8_858_734 - statistics
    assert sum(p.numel() for p in build('yolov3_tiny_640_coco').parameters()) == 8_858_734 - statistics


@pytest.mark.parametrize(
    ('name', 'strides'), [('yolov3_darknet53_640_coco', (8, 16, 32)), ('yolov3_tiny_320_bccd', (16, 32))]
)
def test_levels_come_shallow_to_deep(name: str, strides: tuple[int, ...]) -> None:
    model = build(name)
    (maps,) = model(torch.zeros(1, 3, 64, 96, device='meta'))
    assert model.bbox_head.strides == strides
    assert [tuple(level.shape[-2:]) for level in maps] == [(64 // stride, 96 // stride) for stride in strides]


def test_tiny_takes_sizes_its_strides_do_not_divide() -> None:
    model = build('yolov3_tiny_320_bccd', 'cpu').eval()
    with torch.no_grad():
        (maps,) = model(torch.zeros(1, 3, 50, 83))
    # ceil(50 / 16), ceil(83 / 16); ceil(50 / 32), ceil(83 / 32)
    assert [tuple(level.shape[-2:]) for level in maps] == [(4, 6), (2, 3)]


def test_another_backbone_in_one_line() -> None:
    cfg = load_config(FOLDER / 'yolov3_tiny_320_bccd.py').model
    cfg.backbone = {'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'widen_factor': 0.25, 'out_indices': (3, 4)}
    with torch.device('meta'):
        assert MODELS.build(cfg).neck.in_channels == (128, 256)
