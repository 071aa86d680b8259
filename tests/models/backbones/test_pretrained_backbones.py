"""Weights of torchvision and mmpretrain reproduce the features of the originals; the log lists what did not match."""

import logging
from pathlib import Path

import mmpretrain_names
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mmyolo_ext.models.backbones import MobileNetV3, ShuffleNetV2, StagedBackbone, staged_backbone
from mmyolo_ext.models.backbones.staged_backbone import load_pretrained
from mmyolo_ext.registry import MODELS

ABSOLUTE = 1e-4
# (backbone, its arguments, golden file, golden arrays of its stages)
SHUFFLENET = (
    ShuffleNetV2,
    {'widen_factor': 0.5, 'out_indices': (1, 2, 3, 4)},
    'torchvision_shufflenet_v2_x0_5',
    ('stage2', 'stage3', 'stage4', 'conv5'),
)
# the small network's stages end with blocks 1, 3, 8 and 11
MOBILENET = (
    MobileNetV3,
    {'arch': 'small', 'out_indices': (0, 1, 2, 3, 4, 5)},
    'torchvision_mobilenet_v3_small',
    ('features0', 'features1', 'features3', 'features8', 'features11', 'features12'),
)
BOTH = pytest.mark.parametrize('network', [SHUFFLENET, MOBILENET], ids=['shufflenet', 'mobilenet'])
NAMES = {ShuffleNetV2: mmpretrain_names.shufflenet_v2, MobileNetV3: mmpretrain_names.mobilenet_v3_small}

Log = list[tuple[str, int]]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> Log:
    lines: Log = []
    monkeypatch.setattr(
        staged_backbone, 'print_log', lambda text, logger, level=logging.INFO: lines.append((text, level))
    )
    return lines


def golden_file(golden_dir: Path, network: tuple) -> Path:
    return golden_dir / f'{network[2]}.pth'


def golden_weights(golden_dir: Path, network: tuple) -> dict[str, Tensor]:
    return torch.load(golden_file(golden_dir, network), weights_only=True)


def load(network: tuple, checkpoint: Path | str, prefix: str | None = None, **changes: object) -> StagedBackbone:
    kind, arguments, *_ = network
    backbone = kind(**{**arguments, **changes})
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(checkpoint), 'prefix': prefix}
    load_pretrained(backbone, init_cfg)
    return backbone.eval()


def assert_golden(backbone: StagedBackbone, golden_dir: Path, network: tuple) -> dict[str, Tensor]:
    expected = np.load(golden_dir / f'{network[2]}.npz')
    images = np.random.RandomState(int(expected['input_seed'])).rand(2, 3, 64, 96).astype(np.float32)
    with torch.no_grad():
        outputs = dict(zip(network[3], backbone(torch.from_numpy(images)), strict=True))
    for name, output in outputs.items():
        torch.testing.assert_close(output, torch.from_numpy(expected[name]), atol=ABSOLUTE, rtol=0, msg=name)
    return outputs


def same(part: dict[str, Tensor], whole: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, whole[name]) for name, tensor in part.items())


def logits(features: Tensor, weights: dict[str, Tensor]) -> Tensor:
    """The classifiers of torchvision: one linear layer, or two with h-swish between."""
    pooled = features.mean((2, 3))
    # the golden files keep weights in half precision
    weights = {name: tensor.float() for name, tensor in weights.items()}
    if 'fc.weight' in weights:
        return F.linear(pooled, weights['fc.weight'], weights['fc.bias'])
    hidden = F.hardswish(F.linear(pooled, weights['classifier.0.weight'], weights['classifier.0.bias']))
    return F.linear(hidden, weights['classifier.3.weight'], weights['classifier.3.bias'])


@BOTH
def test_torchvision_weights_give_its_features(golden_dir: Path, network: tuple, log: Log) -> None:
    backbone = load(network, golden_file(golden_dir, network))
    outputs = assert_golden(backbone, golden_dir, network)
    expected = torch.from_numpy(np.load(golden_dir / f'{network[2]}.npz')['logits'])
    scores = logits(outputs[network[3][-1]], golden_weights(golden_dir, network))
    torch.testing.assert_close(scores, expected, atol=ABSOLUTE, rtol=0)
    # ShuffleNetV2: 56 convolutions with their norms, 5 tensors each, and fc. MobileNetV3-small: 34 such, and 9
    # squeeze-excitations of 4 tensors; two linear layers
    total, head = (280, 2) if network is SHUFFLENET else (206, 4)
    ((text, level),) = log
    assert f'{total} of {total} tensors match. {head} more in the file' in text
    assert level == logging.INFO


def in_mmengine(weights: dict[str, Tensor]) -> dict:
    return {'meta': {'epoch': 300}, 'state_dict': weights}


def averaged(weights: dict[str, Tensor]) -> dict:
    return {'ema_state_dict': {'steps': torch.tensor(9), **{f'module.{name}': t for name, t in weights.items()}}}


def compiled(weights: dict[str, Tensor]) -> dict:
    return {'rng': torch.zeros(8), 'model': {f'module._orig_mod.{name}': t for name, t in weights.items()}}


def flat(weights: dict[str, Tensor]) -> dict:
    return {name.removeprefix('backbone.'): t for name, t in weights.items() if name.startswith('backbone.')}


@BOTH
@pytest.mark.parametrize('form', [in_mmengine, averaged, compiled, flat])
def test_mmpretrain_weights_give_the_same(golden_dir: Path, network: tuple, form, tmp_path: Path, log: Log) -> None:
    names = NAMES[network[0]]()
    weights = mmpretrain_names.mmpretrain_state_dict(golden_weights(golden_dir, network), names)
    torch.save(form(weights), tmp_path / 'mmpretrain.pth')
    backbone = load(network, tmp_path / 'mmpretrain.pth')
    assert_golden(backbone, golden_dir, network)
    assert [level for _, level in log] == [logging.INFO]


@BOTH
def test_stages_that_are_not_built_are_left_out(golden_dir: Path, network: tuple, tmp_path: Path, log: Log) -> None:
    names = NAMES[network[0]]()
    weights = golden_weights(golden_dir, network)
    torch.save(mmpretrain_names.mmpretrain_state_dict(weights, names), tmp_path / 'mmpretrain.pth')
    whole = load(network, golden_file(golden_dir, network)).state_dict()
    for checkpoint in (golden_file(golden_dir, network), tmp_path / 'mmpretrain.pth'):
        for last in network[1]['out_indices']:
            part = load(network, checkpoint, out_indices=(last,)).state_dict()
            assert same(part, whole)
            num = sum(not name.endswith('num_batches_tracked') for name in part)
            rest = sum(not name.endswith('num_batches_tracked') for name in weights) - num
            assert f'{num} of {num} tensors match. {rest} more in the file' in log[-1][0]
            assert log[-1][1] == logging.INFO


@BOTH
def test_own_detector_gives_its_backbone(network: tuple, tmp_path: Path, log: Log) -> None:
    trained = network[0](**network[1]).state_dict()
    weights = {f'backbone.{name}': tensor for name, tensor in trained.items()}
    torch.save({'state_dict': {**weights, 'bbox_head.weight': torch.zeros(3)}}, tmp_path / 'own.pth')
    for prefix in (None, 'backbone', 'backbone.'):
        assert same(load(network, tmp_path / 'own.pth', prefix).state_dict(), trained)
    assert [level for _, level in log] == [logging.INFO] * 3
    with pytest.raises(ValueError, match=r"no names with the prefix 'other', but backbone\."):
        load(network, tmp_path / 'own.pth', 'other')


def test_within_a_detector(golden_dir: Path, log: Log) -> None:
    init_cfg = {'type': 'Pretrained', 'checkpoint': str(golden_file(golden_dir, SHUFFLENET))}
    detector = MODELS.build(
        {
            'type': 'mmyolo_ext.YOLODetector',
            'backbone': {'type': 'mmyolo_ext.ShuffleNetV2', 'widen_factor': 0.5, 'init_cfg': init_cfg},
            'neck': {'type': 'mmyolo_ext.YOLOv5PAFPN', 'in_channels': 'auto', 'out_channels': (32, 64, 96)},
            'bbox_head': {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': 2, 'in_channels': 'auto'},
        }
    )
    detector.init_weights()
    # 280 of the golden test, without the last convolution
    assert '275 of 275 tensors match. 7 more' in log[0][0]
    network = (*SHUFFLENET[:3], SHUFFLENET[3][:3])
    assert_golden(detector.backbone.eval(), golden_dir, network)


@BOTH
@pytest.mark.parametrize('stem', ['stem_block', 'focus'])
def test_another_stem_keeps_its_initialization(golden_dir: Path, network: tuple, stem: str, log: Log) -> None:
    loaded = load(network, golden_file(golden_dir, network), stem=stem).state_dict()
    whole = load(network, golden_file(golden_dir, network)).state_dict()
    assert same({name: tensor for name, tensor in loaded.items() if not name.startswith('layers.0.')}, whole)
    text, level = log[0]
    assert level == logging.WARNING
    assert 'layers.0.' in text.split('\n', 1)[1]
    assert not any(f'layers.{stage}.' in text for stage in range(1, 6))
    assert 'Most of the network' not in text


def test_another_width_lists_every_layer(golden_dir: Path, log: Log) -> None:
    load(SHUFFLENET, golden_file(golden_dir, SHUFFLENET), widen_factor=1.0)
    text, level = log[0]
    assert level == logging.WARNING
    # of one size at both widths, 5 tensors each: the stem and the depthwise convolution on it, with their norms; and
    # the norm of the last convolution, 4 tensors
    assert '14 of 280 tensors match, 266 have another shape' in text
    assert 'Most of the network keeps its random weights' in text
    assert '\n  layers.4.conv: weight (1024, 464, 1, 1), in the checkpoint (1024, 192, 1, 1)' in text


def test_other_channels_and_norms_are_listed(golden_dir: Path, log: Log) -> None:
    load(SHUFFLENET, golden_file(golden_dir, SHUFFLENET), in_channels=1)
    assert (
        '279 of 280 tensors match, 1 have another shape (layers.0.conv.conv.weight; the first is (24, 1, 3'
        in log[0][0]
    )
    load(SHUFFLENET, golden_file(golden_dir, SHUFFLENET), norm_cfg={'type': 'GN', 'num_groups': 2})
    # the 56 convolutions match; GN has weight and bias, BN two more
    assert '56 of 168 tensors match, 112 are missing (layers.0.conv.gn.weight' in log[1][0]
    assert '224 are not in the model (layers.0.conv.bn.weight' in log[1][0]


@BOTH
def test_weights_of_another_network_raise(golden_dir: Path, network: tuple, log: Log) -> None:
    other, first = (MOBILENET, 'features.0.0') if network is SHUFFLENET else (SHUFFLENET, 'conv1.0')
    with pytest.raises(ValueError, match=rf'does not fit {network[0].__name__}: 0 of.*start with {first}.weight'):
        load(network, golden_file(golden_dir, other))
    assert log == []


def test_part_of_a_checkpoint_is_listed(golden_dir: Path, tmp_path: Path, log: Log) -> None:
    weights = golden_weights(golden_dir, MOBILENET)
    del weights['features.4.block.2.fc1.bias']
    weights['features.12.2.weight'] = torch.zeros(3)
    weights['features.13.block.0.0.weight'] = torch.zeros(3)
    torch.save(weights, tmp_path / 'part.pth')
    load(MOBILENET, tmp_path / 'part.pth')
    assert log[0][0].split('\n')[1:] == [
        'missing in the checkpoint:',
        # block 4 is the first of the stage of stride 16
        '  layers.3.0.se.conv1.conv: bias',
        'not in the model:',
        '  features.12.2: weight',
        # the last stage has blocks 9, 10, 11, that is 0, 1, 2
        '  layers.4.4.linear_conv.conv: weight',
    ]
    assert log[0][1] == logging.WARNING


def test_init_cfg_loads_once_and_over_another_start(golden_dir: Path, log: Log) -> None:
    init_cfgs = [
        {'type': 'Pretrained', 'checkpoint': str(golden_file(golden_dir, SHUFFLENET)), 'map_location': 'cpu'},
        {'type': 'Constant', 'layer': 'Conv2d', 'val': 3.0},
    ]
    backbone = ShuffleNetV2(0.5, stem='focus', init_cfg=init_cfgs)
    for _ in range(2):
        backbone.init_weights()
    assert len(log) == 1
    constant = {name for name, tensor in backbone.named_parameters() if tensor.dim() == 4 and (tensor == 3).all()}
    assert constant == {
        name for name, _ in backbone.named_parameters() if name.startswith('layers.0.') and 'bn' not in name
    }


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'state_dict': {}}, 'a dict;'),
        ([torch.zeros(1)], 'a list;'),
        (torch.nn.Linear(1, 1), 'a Linear;'),
        ({'model': torch.nn.Linear(1, 1), 'epoch': 3}, 'a dict;'),
    ],
)
def test_a_file_without_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / 'some.pth')
    with pytest.raises(
        ValueError,
        match=rf'some\.pth contains no named weights but {message}.*it must be a state dict, or have one',
    ):
        load(SHUFFLENET, tmp_path / 'some.pth')


def test_weights_of_a_training_that_diverged(tmp_path: Path) -> None:
    weights = ShuffleNetV2(0.5).state_dict()
    weights['layers.0.conv.bn.running_var'][3] = float('inf')
    torch.save(weights, tmp_path / 'some.pth')
    with pytest.raises(ValueError, match=r'some\.pth holds NaN or infinity in layers\.0\.conv\.bn\.runn'):
        load(SHUFFLENET, tmp_path / 'some.pth')


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no checkpoint .*some\.pth'):
        load(SHUFFLENET, tmp_path / 'some.pth')
    (tmp_path / 'some.pth').write_bytes(b'PK\x03\x04 cut')
    with pytest.raises(ValueError, match=r'some\.pth cannot be read'):
        load(SHUFFLENET, tmp_path / 'some.pth')
