"""``YOLODetector`` with components of ours and mmdet; tracing and export."""

import copy
import logging
from collections.abc import Callable

import pytest
import torch
from mmdet.registry import MODELS as MMDET_MODELS
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.models.detectors import YOLODetector
from mmyolo_ext.models.detectors.in_channels import FeatureSpec, features_of
from mmyolo_ext.registry import MODELS


def config(
    widen: float = 0.125, deepen: float = 0.33, num_classes: int = 3, arch: str = 'P5', version: str = 'v6'
) -> dict:
    size = {'widen_factor': widen, 'deepen_factor': deepen}
    head = {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': num_classes, 'in_channels': 'auto'}
    if arch == 'P6':
        head['prior_generator'] = {
            'type': 'mmdet.YOLOAnchorGenerator',
            'base_sizes': [
                [(19, 27), (44, 40), (38, 94)],
                [(96, 68), (86, 152), (180, 137)],
                [(140, 301), (303, 264), (238, 542)],
                [(436, 615), (739, 380), (925, 792)],
            ],
            'strides': [8, 16, 32, 64],
        }
    return {
        'type': 'mmyolo_ext.YOLODetector',
        'backbone': {'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'arch': arch, 'version': version, **size},
        'neck': {
            'type': 'mmyolo_ext.YOLOv5PAFPN',
            'in_channels': 'auto',
            'out_channels': (256, 512, 1024) if arch == 'P5' else (256, 512, 768, 1024),
            **size,
        },
        'bbox_head': head,
    }


@MODELS.register_module(force=True)
class StubbornBackbone(nn.Module):
    """Declare nothing and reject zeros."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        raise RuntimeError('only 224 x 224')


def resnet(out_indices: tuple[int, ...]) -> dict:
    return {'type': 'mmdet.ResNet', 'depth': 18, 'base_channels': 8, 'stem_channels': 8, 'out_indices': out_indices}


def sample(size_hw: tuple[int, int], with_box: bool) -> DetDataSample:
    shapes = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape', 'ori_shape'), size_hw)
    meta = {**shapes, 'scale_factor': (1.0, 1.0)}
    boxes = [[4.0, 6, 40, 50]] if with_box else []
    result = DetDataSample(metainfo=meta)
    result.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    return result


@pytest.mark.parametrize(('widen', 'parameters'), [(0.25, 1_872_157), (0.5, 7_235_389)])
def test_number_of_parameters(widen: float, parameters: int) -> None:
    detector = MODELS.build(config(widen, num_classes=80))
    assert sum(parameter.numel() for parameter in detector.parameters()) == parameters


@pytest.mark.parametrize(('arch', 'version'), [('P5', 'v6'), ('P5', 'v5'), ('P6', 'v6'), ('P6', 'v5')])
def test_a_step_reaches_every_parameter(arch: str, version: str) -> None:
    torch.manual_seed(0)
    detector = MODELS.build(config(arch=arch, version=version))
    size_hw = (64, 128)
    samples = [sample(size_hw, with_box=True), sample(size_hw, with_box=False)]
    for batch in (samples, samples[1:] * 2):  # the second without any box
        detector.zero_grad()
        losses = detector.loss(torch.rand(2, 3, *size_hw), batch)
        sum(losses.values()).backward()
        for name, parameter in detector.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.isfinite().all(), name
    if arch == 'P6':
        assert detector.bbox_head.obj_balance.weights.tolist() == pytest.approx([4, 1, 0.25, 0.06])


def test_builds_from_mmdets_registry_and_leaves_its_config_alone() -> None:
    cfg = config()
    before = copy.deepcopy(cfg)
    assert isinstance(MMDET_MODELS.build(cfg), YOLODetector)
    assert cfg == before


def test_backbone_of_mmdet() -> None:
    cfg = {**config(), 'backbone': resnet((1, 2, 3))}
    detector = MODELS.build(cfg)
    assert detector.neck.in_channels == (16, 32, 64)
    assert detector.bbox_head.in_channels == (32, 64, 128)
    detector.loss(torch.rand(1, 3, 64, 96), [sample((64, 96), with_box=True)])


def test_neck_of_mmdet() -> None:
    neck = {'type': 'mmdet.FPN', 'in_channels': 'auto', 'out_channels': 24, 'num_outs': 3}
    detector = MODELS.build({**config(), 'neck': neck})
    assert detector.neck.in_channels == [32, 64, 128]
    assert detector.bbox_head.in_channels == (24, 24, 24)
    without_neck = MODELS.build({**config(), 'neck': None})
    assert without_neck.bbox_head.in_channels == (32, 64, 128)


def test_head_of_mmdet() -> None:
    detector = MODELS.build(
        {
            'type': 'mmyolo_ext.YOLODetector',
            'backbone': resnet((1, 2, 3)),
            'neck': {'type': 'mmdet.FPN', 'in_channels': 'auto', 'out_channels': 16, 'num_outs': 3},
            'bbox_head': {
                'type': 'mmdet.GFLHead',
                'num_classes': 3,
                'in_channels': 16,
                'feat_channels': 32,
                'loss_cls': {'type': 'mmdet.QualityFocalLoss', 'use_sigmoid': True, 'beta': 2.0},
                'loss_bbox': {'type': 'mmyolo_ext.IoULoss', 'mode': 'giou', 'loss_weight': 2.0},
                'anchor_generator': {
                    'type': 'mmdet.AnchorGenerator',
                    'ratios': [1.0],
                    'octave_base_scale': 8,
                    'scales_per_octave': 1,
                    'strides': [8, 16, 32],
                },
            },
            'train_cfg': {
                'assigner': {'type': 'mmdet.ATSSAssigner', 'topk': 9},
                'allowed_border': -1,
                'pos_weight': -1,
            },
        }
    )
    losses = detector.loss(torch.rand(1, 3, 64, 96), [sample((64, 96), with_box=True)])
    assert set(losses) == {'loss_cls', 'loss_bbox', 'loss_dfl'}


@pytest.mark.parametrize(
    ('out_indices', 'message'),
    [
        (
            (0, 1, 2),
            r'strides \(4, 8, 16\).*\(8, 16, 32\)\. Try out_indices=\(1, 2, 3\) of ResNet \(now \(0, 1, 2\)\)',
        ),
        ((1, 2), 'one of out_channels for each of in_channels'),
    ],
)
def test_strides_that_do_not_fit(out_indices: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        MODELS.build({**config(), 'backbone': resnet(out_indices)})


def test_dry_run_may_fail_if_nothing_needs_it() -> None:
    cfg = {
        'type': 'mmyolo_ext.YOLODetector',
        'backbone': {'type': 'mmyolo_ext.StubbornBackbone'},
        'bbox_head': {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': 3, 'in_channels': [8, 8, 8]},
    }
    assert MODELS.build(cfg).bbox_head.in_channels == (8, 8, 8)
    cfg['bbox_head']['in_channels'] = 'auto'
    with pytest.raises(
        ValueError, match='StubbornBackbone does not declare out_channels.*RuntimeError: only 224 x 224'
    ):
        MODELS.build(cfg)
    with pytest.raises(ValueError, match='must return a tuple of maps'):
        features_of(nn.Conv2d(3, 8, 1), 3)


def test_dry_run_keeps_modes_and_weights() -> None:
    backbone = MMDET_MODELS.build({**resnet((1, 2, 3)), 'norm_eval': False, 'frozen_stages': 1})
    modes = [module.training for module in backbone.modules()]
    state = copy.deepcopy(backbone.state_dict())
    generator_state = torch.get_rng_state()
    assert features_of(backbone, 3) == FeatureSpec((16, 32, 64), (8, 16, 32))
    assert [module.training for module in backbone.modules()] == modes
    assert torch.equal(torch.get_rng_state(), generator_state)
    assert all(torch.equal(value, state[name]) for name, value in backbone.state_dict().items())


class RawAndDecoded(nn.Module):
    """The network and the decoding, as in an exported graph."""

    def __init__(self) -> None:
        super().__init__()
        self.detector = MODELS.build(config()).eval()

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        outputs = self.detector(x, mode='tensor')
        return (*sum(outputs, []), *self.detector.bbox_head.decode(*outputs))


def traced(model: nn.Module, x: torch.Tensor) -> nn.Module:
    return torch.jit.trace(model, x)


def exported(model: nn.Module, x: torch.Tensor) -> nn.Module:
    return torch.export.export(model, (x,)).module()


@pytest.mark.parametrize('convert', [traced, pytest.param(exported, marks=pytest.mark.slow)])
def test_trace_and_export(convert: Callable[[nn.Module, torch.Tensor], nn.Module]) -> None:
    model, example = RawAndDecoded(), torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        converted = convert(model, example)
        x = torch.rand(1, 3, 64, 96)
        for ours, theirs in zip(converted(x), model(x), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_state_dict_round_trip() -> None:
    first, second = MODELS.build(config()), MODELS.build(config())
    logging.disable(logging.INFO)
    first.init_weights()
    logging.disable(logging.NOTSET)
    second.load_state_dict(first.state_dict())
    x = torch.rand(1, 3, 64, 64)
    for ours, theirs in zip(sum(first.eval()(x), []), sum(second.eval()(x), []), strict=True):
        assert torch.equal(ours, theirs)
