"""timm's networks as backbones: with a fake of its interface, and with timm itself if it is installed."""

import importlib
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from torch import nn

from mmyolo_ext.models.backbones.timm_backbone import TIMMBackbone
from mmyolo_ext.registry import MODELS

WIDTHS = (8, 12, 16, 24, 32)  # strides 2 to 32


class FakeInfo:
    """timm's FeatureInfo: all maps a network has, and which of them were asked for."""

    def __init__(self, info: list[dict], out_indices: Sequence[int]) -> None:
        self.info, self.out_indices = info, tuple(out_indices)

    def __len__(self) -> int:
        return len(self.info)

    def __getitem__(self, index: int) -> dict:
        return self.info[index]

    def channels(self) -> list[int]:
        return [self.info[index]['num_chs'] for index in self.out_indices]

    def reduction(self) -> list[int]:
        return [self.info[index]['reduction'] for index in self.out_indices]


class FakeNet(nn.ModuleDict):
    """timm's FeatureListNet: the children of a network in order, ``stages.0`` called ``stages_0``; a list of maps."""

    def __init__(self, output_fmt: str, out_indices: Sequence[int], in_chans: int, names: Sequence[str]) -> None:
        super().__init__()
        info = [
            {'num_chs': width, 'reduction': 2 ** (index + 1), 'module': name}
            for index, (width, name) in enumerate(zip(WIDTHS, names, strict=True))
        ]
        self.output_fmt = output_fmt
        self.feature_info = FakeInfo(info, out_indices)
        self.feature_info.channels()  # an index out of range is an IndexError here, as in timm
        for index, width in enumerate(WIDTHS[: max(out_indices) + 1]):
            before = WIDTHS[index - 1] if index else in_chans
            stage = nn.Sequential(nn.Conv2d(before, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
            self[f'stages_{index}'] = stage

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        maps = []
        for stage in self.values():
            x = stage(x)
            maps.append(x.permute(0, 2, 3, 1) if self.output_fmt == 'NHWC' else x)
        return [maps[index] for index in self.feature_info.out_indices]

    def init_weights(self) -> None:
        raise AssertionError('the weights that timm loaded were initialized again')


class FixedNet(FakeNet):
    """Accept one image size only."""

    size_hw = (64, 64)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        assert tuple(x.shape[-2:]) == self.size_hw, f'Input {tuple(x.shape[-2:])} is not {self.size_hw}'
        return super().forward(x)


class ShavingNet(FakeNet):
    """Its last layers have no padding, as those of Inception; timm declares strides all the same."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        for stage in list(self.values())[1:]:
            stage[0].padding = (0, 0)


class SlowNet(FakeNet):
    """Its last map has the stride of the one before it."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)
        if 'stages_4' in self:
            self['stages_4'][0].stride = (1, 1)


NETWORKS: dict[str, Callable[..., FakeNet]] = {
    'smallnet18': FakeNet,
    'smallnet34': FakeNet,
    'swinlike': FakeNet,
    'rigid': FixedNet,
    'unnamed': FakeNet,
    'inceptionlike': ShavingNet,
    'misdeclared': SlowNet,
}


def create_model(
    model_name: str,
    pretrained: bool = False,
    features_only: bool = False,
    out_indices: Sequence[int] = (0, 1, 2, 3, 4),
    in_chans: int = 3,
    pretrained_cfg_overlay: dict | None = None,
    **kwargs: object,
) -> FakeNet:
    assert features_only
    if model_name == 'vitlike':
        raise RuntimeError('features_only not implemented for this model')
    if model_name not in NETWORKS:
        raise RuntimeError(f'Unknown model ({model_name})')
    if model_name == 'swinlike' and kwargs.pop('strict_img_size', True):
        return create_model('rigid', features_only=True, out_indices=out_indices, in_chans=in_chans, **kwargs)
    if kwargs:
        raise TypeError(f'unexpected keyword argument {next(iter(kwargs))!r}')
    names = [f'stages.{index}' for index in range(5)] if model_name != 'unnamed' else ['head'] * 5
    model = NETWORKS[model_name]('NHWC' if model_name == 'swinlike' else 'NCHW', out_indices, in_chans, names)
    if pretrained:
        published = {'stages_0.0.bias': torch.full((WIDTHS[0],), 0.25)}
        given = torch.load(pretrained_cfg_overlay['file']) if pretrained_cfg_overlay else published
        model.load_state_dict(given, strict=False)
    return model


@pytest.fixture
def fake_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType('timm')
    module.create_model = create_model
    module.get_pretrained_cfg = lambda name: SimpleNamespace(
        fixed_input_size=name in ('swinlike', 'rigid'), input_size=(3, 64, 64)
    )
    monkeypatch.setitem(sys.modules, 'timm', module)


@pytest.mark.usefixtures('fake_timm')
@pytest.mark.parametrize(
    ('model_name', 'out_indices', 'channels', 'strides'),
    [
        ('smallnet18', None, (16, 24, 32), (8, 16, 32)),
        ('smallnet18', (0, 3), (8, 24), (2, 16)),
        ('misdeclared', None, (16, 24, 32), (8, 16, 16)),  # timm says 32
        ('swinlike', None, (16, 24, 32), (8, 16, 32)),  # channels last, and built for any image size
    ],
)
def test_declares_what_comes_out(model_name: str, out_indices: tuple | None, channels: tuple, strides: tuple) -> None:
    backbone = MODELS.build(
        {'type': 'mmyolo_ext.TIMMBackbone', 'model_name': model_name, 'out_indices': out_indices, 'in_channels': 4}
    )
    assert (backbone.out_channels, backbone.out_strides) == (channels, strides)
    assert backbone.stage_strides == (2, 4, 8, 16, 32)
    maps = backbone(torch.rand(2, 4, 64, 96))
    assert [tuple(item.shape) for item in maps] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(channels, strides, strict=True)
    ]
    sum(item.sum() for item in maps).backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.usefixtures('fake_timm')
def test_channels_last_become_channels_first() -> None:
    swin, plain = TIMMBackbone('swinlike'), TIMMBackbone('smallnet18')
    swin.load_state_dict(plain.state_dict())
    x = torch.rand(1, 3, 64, 96)
    for ours, theirs in zip(swin(x), plain(x), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.usefixtures('fake_timm')
@pytest.mark.parametrize('frozen_stages', [-1, 0, 2])
@pytest.mark.parametrize('norm_eval', [False, True])
def test_freezing(frozen_stages: int, norm_eval: bool) -> None:
    backbone = TIMMBackbone('smallnet18', frozen_stages=frozen_stages, norm_eval=norm_eval).train()
    for index, stage in enumerate(backbone.model.values()):
        frozen = index <= frozen_stages
        assert all(parameter.requires_grad != frozen for parameter in stage.parameters())
        assert stage[0].training != frozen
        assert stage[1].training != (frozen or norm_eval)
    sum(item.sum() for item in backbone(torch.rand(1, 3, 64, 64))).backward()
    assert not any(module.training for module in backbone.eval().modules())


@pytest.mark.usefixtures('fake_timm')
def test_weights(tmp_path: Path) -> None:
    published = TIMMBackbone('smallnet18', pretrained=True)
    published.init_weights()  # keeps them, though the network of timm has an init_weights of its own
    assert published.model['stages_0'][0].bias.tolist() == [0.25] * 8
    torch.save(TIMMBackbone('smallnet18').model.state_dict(), tmp_path / 'own.pth')
    own = {'file': str(tmp_path / 'own.pth')}
    loaded = TIMMBackbone('smallnet18', pretrained=True, pretrained_cfg_overlay=own)
    for name, value in torch.load(tmp_path / 'own.pth').items():
        assert torch.equal(loaded.model.state_dict()[name], value)


@pytest.mark.usefixtures('fake_timm')
def test_names_of_a_file_of_timm() -> None:
    backbone = TIMMBackbone('smallnet18')
    own = backbone.state_dict()
    # the extractor calls the stage 'stages.0' 'stages_0', and the classifier is not in it
    file = {name.removeprefix('model.').replace('stages_', 'stages.'): value for name, value in own.items()}
    assert 'stages.0.0.weight' in file
    translated = backbone.translate({**file, 'fc.weight': torch.zeros(1)})
    assert translated.keys() == own.keys() and all(translated[name] is file_value for name, file_value in own.items())


@pytest.mark.usefixtures('fake_timm')
@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (
            {'model_name': 'smallnet19'},
            r'timm cannot build smallnet19.*Unknown model \(smallnet19\); timm.list_models',
        ),
        ({'model_name': 'vitlike'}, 'timm cannot build vitlike as a backbone: features_only not implemented'),
        (
            {'model_name': 'rigid'},
            r'rigid does not accept an image of \(128, 160\) px \(AssertionError: Input \(128, 160\)',
        ),
        # 128 -> 64, then (n - 3) // 2 + 1: 31, 15, 7, 3; 160 -> 80, 39, 19, 9, 4
        (
            {'model_name': 'inceptionlike'},
            r'inceptionlike has maps of \[\(15, 19\), \(7, 9\), \(3, 4\)\] cells .* for an image of \(128, 160\) px: ',
        ),
        ({'out_indices': (2, 5)}, r'increasing numbers from 0 to 4 \(strides \[2, 4, 8, 16, 32\]\), got \(2, 5\)'),
        ({'out_indices': (3, 2)}, r'got \(3, 2\)'),
        ({'out_indices': (-1,)}, r'got \(-1,\)'),
        ({'out_indices': ()}, r'got \(\)'),
        ({'frozen_stages': 5}, r'frozen_stages must be from -1 \(none\) to 4, got 5'),
        ({'frozen_stages': -2}, 'got -2'),
        ({'model_name': 'unnamed', 'frozen_stages': 1}, "frozen_stages: .* has no module 'head'"),
    ],
)
def test_bad_input(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TIMMBackbone(**{'model_name': 'smallnet18', **arguments})


@pytest.mark.usefixtures('fake_timm')
def test_network_without_the_strides_of_detectors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeInfo, '__getitem__', lambda self, index: {**self.info[index], 'reduction': 16})
    with pytest.raises(ValueError, match=r'the strides \[16, 16, 16, 16, 16\]: choose'):
        TIMMBackbone('smallnet18')


def test_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, 'timm', None)  # how Python marks a module that is not to be found
    with pytest.raises(ImportError, match='TIMMBackbone needs timm .*ModuleNotFoundError.*pip install timm'):
        TIMMBackbone('resnet18')


@pytest.mark.parametrize(
    ('source', 'message'),
    [
        ('import a_package_that_is_not_there', "does not import .ModuleNotFoundError: No module named 'a_package"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", 'does not import .RuntimeError: operator'),
    ],
)
def test_with_a_broken_timm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, message: str) -> None:
    (tmp_path / 'timm.py').write_text(source)
    monkeypatch.delitem(sys.modules, 'timm', raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ImportError, match=message):
        TIMMBackbone('resnet18')


@pytest.fixture(scope='session')
def real_timm() -> ModuleType:
    try:
        return importlib.import_module('timm')
    except Exception as error:  # absent, or with a torchvision made for another torch
        pytest.skip(f'timm does not import: {error}')


@pytest.mark.usefixtures('real_timm')
@pytest.mark.parametrize(
    ('model_name', 'channels'),
    [
        ('mobilenetv3_small_100', (24, 48, 576)),
        ('resnet18', (128, 256, 512)),
        ('efficientnet_lite0', (40, 112, 320)),
        ('convnext_atto', (80, 160, 320)),
        ('swin_tiny_patch4_window7_224', (192, 384, 768)),
    ],
)
def test_networks_of_timm(model_name: str, channels: tuple[int, ...]) -> None:
    backbone = TIMMBackbone(model_name, frozen_stages=1)
    assert (backbone.out_channels, backbone.out_strides) == (channels, (8, 16, 32))
    maps = backbone.train()(torch.rand(2, 3, 64, 96))
    assert [tuple(item.shape) for item in maps] == [
        (2, width, 64 // stride, 96 // stride) for width, stride in zip(channels, (8, 16, 32), strict=True)
    ]
    sum(item.sum() for item in maps).backward()
    trained = {name for name, parameter in backbone.named_parameters() if parameter.requires_grad}
    assert trained == {name for name, parameter in backbone.named_parameters() if parameter.grad is not None}
    assert 0 < len(trained) < len(list(backbone.parameters()))
