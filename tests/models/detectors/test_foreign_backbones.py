"""Backbones of mmdet, mmpretrain and timm under our neck and head with ``in_channels='auto'``."""

import copy
import importlib

import pytest
import torch
from fitting_parts import SIZE_HW, detector, pafpn, sample, yolov5_head
from torch import nn

from mmyolo_ext.models.backbones.timm_backbone import TIMMBackbone
from mmyolo_ext.models.detectors.in_channels import FeatureSpec, features_of
from mmyolo_ext.registry import MODELS

LAST_THREE = {'out_indices': (1, 2, 3)}
NARROW = {'base_channels': 8, 'stem_channels': 8, **LAST_THREE}
HRNET = {
    'stage1': {'num_modules': 1, 'num_branches': 1, 'block': 'BOTTLENECK', 'num_blocks': (1,), 'num_channels': (8,)},
    'stage2': {
        'num_modules': 1,
        'num_branches': 2,
        'block': 'BASIC',
        'num_blocks': (1,) * 2,
        'num_channels': (18, 36),
    },
    'stage3': {
        'num_modules': 1,
        'num_branches': 3,
        'block': 'BASIC',
        'num_blocks': (1,) * 3,
        'num_channels': (18, 36, 72),
    },
    'stage4': {
        'num_modules': 1,
        'num_branches': 4,
        'block': 'BASIC',
        'num_blocks': (1,) * 4,
        'num_channels': (18, 36, 72, 144),
    },
}
SWIN = {'embed_dims': 12, 'depths': (1, 1, 2, 1), 'num_heads': (1, 2, 3, 4), 'drop_path_rate': 0.2}
PVT = {'num_layers': [1] * 4, 'embed_dims': 8, 'num_heads': [1, 2, 4, 8]}

MMDET = {
    'ResNet-18': {'type': 'mmdet.ResNet', 'depth': 18, **NARROW},
    'ResNet-50': {'type': 'mmdet.ResNet', 'depth': 50, 'frozen_stages': 1, **NARROW},
    'ResNetV1d-50': {'type': 'mmdet.ResNetV1d', 'depth': 50, **NARROW},
    'ResNeXt-50': {'type': 'mmdet.ResNeXt', 'depth': 50, 'groups': 4, 'base_width': 8, **NARROW},
    'Res2Net-50': {'type': 'mmdet.Res2Net', 'depth': 50, 'scales': 4, 'base_width': 13, **NARROW},
    'ResNeSt-50': {'type': 'mmdet.ResNeSt', 'depth': 50, **NARROW},
    'HRNet-w18': {'type': 'mmdet.HRNet', 'extra': HRNET},
    'RegNet': {'type': 'mmdet.RegNet', 'arch': 'regnetx_400mf', **LAST_THREE},
    'Swin': {'type': 'mmdet.SwinTransformer', **SWIN, **LAST_THREE},
    'PVT': {'type': 'mmdet.PyramidVisionTransformer', **PVT, **LAST_THREE},
    'PVTv2': {'type': 'mmdet.PyramidVisionTransformerV2', **PVT, **LAST_THREE},
    'CSPDarknet': {'type': 'mmdet.CSPDarknet', 'widen_factor': 0.125, 'deepen_factor': 0.33},
    'CSPNeXt': {'type': 'mmdet.CSPNeXt', 'widen_factor': 0.125, 'deepen_factor': 0.33},
    'MobileNetV2': {'type': 'mmdet.MobileNetV2', 'widen_factor': 0.25, 'out_indices': (2, 4, 6)},
    'EfficientNet-b0': {'type': 'mmdet.EfficientNet', 'arch': 'b0', 'out_indices': (3, 4, 5)},
}
OURS = {
    'YOLOv5CSPDarknet': {'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'widen_factor': 0.125, 'deepen_factor': 0.33},
    'ShuffleNetV2': {'type': 'mmyolo_ext.ShuffleNetV2', 'widen_factor': 0.5},
    'MobileNetV3': {'type': 'mmyolo_ext.MobileNetV3', 'widen_factor': 0.25},
}
MMPRETRAIN = {
    'ResNet': {'type': 'mmpretrain.ResNet', 'depth': 18, **LAST_THREE},
    'MobileNetV3': {'type': 'mmpretrain.MobileNetV3', 'arch': 'small', 'out_indices': (3, 8, 11)},
    'ShuffleNetV2': {'type': 'mmpretrain.ShuffleNetV2', 'widen_factor': 0.5, 'out_indices': (0, 1, 2)},
    'ConvNeXt': {'type': 'mmpretrain.ConvNeXt', 'arch': 'atto', 'gap_before_final_norm': False, **LAST_THREE},
    'Swin': {'type': 'mmpretrain.SwinTransformer', 'arch': 'tiny', 'pad_small_map': True, **LAST_THREE},
    'EfficientNet': {'type': 'mmpretrain.EfficientNet', 'arch': 'b0', 'out_indices': (3, 4, 5)},
    'HorNet': {'type': 'mmpretrain.HorNet', 'arch': 'tiny', 'gap_before_final_norm': False, **LAST_THREE},
}
TIMM = ('mobilenetv3_small_100', 'resnet18', 'efficientnet_lite0', 'convnext_atto', 'swin_tiny_patch4_window7_224')


def four_levels(backbone: dict) -> dict:
    """For strides 4 to 32, which HRNet gives without a choice."""
    sizes = [[(8, 8)], [(16, 16)], [(32, 32)], [(64, 64)]]
    anchors = {'type': 'mmdet.YOLOAnchorGenerator', 'base_sizes': sizes, 'strides': [4, 8, 16, 32]}
    return detector(backbone, pafpn(out_channels=(128, 256, 512, 1024)), yolov5_head(prior_generator=anchors))


def check_in_detector(config: dict) -> None:
    """Check that the declared or measured maps are the real ones, and a step and a prediction work."""
    torch.manual_seed(0)
    model = MODELS.build(four_levels(config) if config['type'] == 'mmdet.HRNet' else detector(config, pafpn()))
    images = torch.rand(2, 3, *SIZE_HW)
    features = features_of(model.backbone, 3)
    real = model.backbone(images)
    assert features.channels == tuple(item.shape[1] for item in real) == model.neck.in_channels
    height, width = SIZE_HW
    assert [tuple(item.shape[-2:]) for item in real] == [(height // s, width // s) for s in features.strides]

    sum(model.loss(images, [sample(), sample(with_box=False)]).values()).backward()
    grads = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.requires_grad}
    missing = [name for name, grad in grads.items() if grad is None]
    assert all(name.startswith('backbone') for name in missing), missing
    assert len(missing) < len(grads) / 2
    assert all(grad.isfinite().all() for grad in grads.values() if grad is not None)

    with torch.no_grad():
        results = model.eval().predict(images, [sample(), sample()])
    assert [set(result.pred_instances.keys()) for result in results] == [{'bboxes', 'scores', 'labels'}] * 2


@pytest.mark.parametrize('name', [*MMDET, *OURS])
def test_backbones_of_mmdet_and_ours(name: str) -> None:
    check_in_detector({**MMDET, **OURS}[name])


@pytest.mark.slow  # it has no narrower form
def test_darknet53() -> None:
    check_in_detector({'type': 'mmdet.Darknet', 'depth': 53})


@pytest.mark.parametrize('name', MMDET)
def test_dry_run_has_no_side_effects(name: str) -> None:
    torch.manual_seed(0)
    backbone = MODELS.build(MMDET[name])
    list(backbone.children())[-1].eval()  # a mode that a call of train() would not restore
    modes = [module.training for module in backbone.modules()]
    trained = [parameter.requires_grad for parameter in backbone.parameters()]
    state, random = copy.deepcopy(backbone.state_dict()), torch.get_rng_state()
    spec = features_of(backbone, 3)
    assert [module.training for module in backbone.modules()] == modes
    assert [parameter.requires_grad for parameter in backbone.parameters()] == trained
    assert all(parameter.grad is None for parameter in backbone.parameters())
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, state[key]) for key, value in backbone.state_dict().items())
    assert spec.strides == ((4, 8, 16, 32) if name == 'HRNet-w18' else (8, 16, 32))


class Careless(nn.Module):
    """Draws random numbers and moves statistics whatever the mode; freezes itself when the mode is set."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 8, 8).to(torch.float64)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
        return (self.conv(x + torch.rand_like(x)),)

    def train(self, mode: bool = True) -> 'Careless':
        self.requires_grad_(False)
        return super().train(mode)


def test_dry_run_restores_state_of_a_careless_backbone() -> None:
    backbone = Careless()
    random = torch.get_rng_state()
    assert features_of(backbone, 3) == FeatureSpec((4,), (8,))  # in its own precision, too
    assert torch.equal(torch.get_rng_state(), random)
    assert backbone.conv.weight.requires_grad


class Deepening(nn.Module):
    """Adds a level of twice the stride."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, maps: tuple[torch.Tensor, ...]) -> list[torch.Tensor]:
        return [*maps, self.conv(maps[-1])]


def test_long_strides_are_measured() -> None:
    # 256 px have 4 cells at stride 64, 2 at stride 128
    assert features_of(Deepening(), FeatureSpec((4,), (64,))) == FeatureSpec((4, 4), (64, 128))


@pytest.fixture(scope='session')
def mmpretrain() -> None:
    try:
        importlib.import_module('mmpretrain.models')
    except Exception as error:  # absent, or in need of packages that are
        pytest.skip(f'mmpretrain does not import: {error}')


@pytest.mark.usefixtures('mmpretrain')
@pytest.mark.parametrize('name', MMPRETRAIN)
def test_backbones_of_mmpretrain(name: str) -> None:
    check_in_detector(MMPRETRAIN[name])


@pytest.mark.usefixtures('mmpretrain')
def test_mmpretrain_timm_backbone_is_separate() -> None:
    assert MODELS.get('mmyolo_ext.TIMMBackbone') is TIMMBackbone
    assert MODELS.get('mmpretrain.TIMMBackbone') not in (TIMMBackbone, None)


@pytest.mark.parametrize('name', TIMM)
def test_backbones_of_timm(name: str) -> None:
    try:
        importlib.import_module('timm')
    except Exception as error:  # absent, or with a torchvision made for another torch
        pytest.skip(f'timm does not import: {error}')
    check_in_detector({'type': 'mmyolo_ext.TIMMBackbone', 'model_name': name})
