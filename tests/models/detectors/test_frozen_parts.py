"""``frozen_parts``: named parts are not trained, all others are."""

import copy

import pytest
import torch
from mmdet.models.layers import ExpMomentumEMA
from mmengine.registry import MODELS
from mmengine.structures import InstanceData
from torch import nn

from mmyolo_ext.engine.optim import YOLOOptimConstructor

SGD = {'optimizer': {'type': 'SGD', 'lr': 0.1, 'momentum': 0.9, 'weight_decay': 5e-4}}


def detector(frozen_parts=(), **backbone) -> nn.Module:
    """The smallest YOLOv5, for two classes."""
    torch.manual_seed(0)
    factors = {'deepen_factor': 0.33, 'widen_factor': 0.125}
    cfg = {
        'type': 'mmyolo_ext.YOLODetector',
        'backbone': {'type': 'mmyolo_ext.YOLOv5CSPDarknet', **factors, **backbone},
        'neck': {
            'type': 'mmyolo_ext.YOLOv5PAFPN', 'in_channels': 'auto', 'out_channels': (256, 512, 1024), **factors
        },
        'bbox_head': {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': 2, 'in_channels': 'auto'},
        'frozen_parts': frozen_parts,
    }  # fmt: skip
    return MODELS.build(cfg)


def step(model: nn.Module) -> None:
    """Train one step on two noise images with a box each; weights and statistics change."""
    wrapper = YOLOOptimConstructor(SGD)(model)
    model.train()
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    truth = [
        InstanceData(bboxes=torch.tensor([[8.0, 8.0, 40.0, 44.0]]), labels=torch.tensor([label])) for label in range(2)
    ]
    metas = [{'batch_input_shape': (64, 64), 'img_shape': (64, 64)}] * 2
    outputs = model.bbox_head(model.extract_feat(images))
    losses = model.bbox_head.loss_by_feat(*outputs, truth, metas)
    wrapper.update_params(sum(losses.values()))


@pytest.mark.parametrize(
    ('frozen_parts', 'still'),
    [
        ('backbone', ('backbone.',)),
        (
            ('backbone.layers.[0-2]', 'neck'),
            ('backbone.layers.0.', 'backbone.layers.1.', 'backbone.layers.2.', 'neck.'),
        ),
        (['bbox_head.convs_pred.0'], ('bbox_head.convs_pred.0.',)),
    ],
)
def test_a_step_changes_all_but_frozen_parts(frozen_parts, still):
    model = detector(frozen_parts)
    before = copy.deepcopy(model.state_dict())
    step(model)
    # statistics of norms count as well: they would move in training mode
    moved = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in moved if name.startswith(still)]
    assert [n for n in before if not n.startswith(still) and n not in moved] == []


def test_frozen_parts_are_the_frozen_stages_where_both_name_the_same():
    by_stage, by_name = detector(frozen_stages=2), detector('backbone.layers.[0-2]')
    step(by_stage)
    step(by_name)
    for name, value in by_stage.state_dict().items():
        assert torch.equal(value, by_name.state_dict()[name]), name


def test_a_frozen_parameter_alone_leaves_its_module_in_training():
    model = detector('backbone.layers.0.bn.weight').train()
    norm = model.backbone.layers[0].bn
    assert (norm.weight.requires_grad, norm.bias.requires_grad, norm.training) == (False, True, True)


def test_frozen_modules_stay_in_eval_mode_through_train_and_ema():
    model = detector('backbone.layers.*.bn')
    average = ExpMomentumEMA(model)
    for copied in (model, average.module):
        for mode in (True, False, True):
            copied.train(mode)
        modes = {name: part.training for name, part in copied.named_modules() if isinstance(part, nn.BatchNorm2d)}
        assert {mode for name, mode in modes.items() if name.startswith('backbone.')} == {False}
        assert {mode for name, mode in modes.items() if name.startswith('neck.')} == {True}
        assert copied.backbone.layers[0].conv.weight.requires_grad == (copied is model)


def test_nothing_is_frozen_by_default():
    model = detector()
    assert all(p.requires_grad for p in model.parameters()) and all(part.training for part in model.modules())


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        ('bbox_heads', "no module or parameter matches 'bbox_heads'"),
        ('zzz', r"matches 'zzz'; modules are \['data_preprocessor', 'backbone', 'neck', 'bbox_head'\]"),
        ('', "matches ''"),
    ],
)
def test_unknown_names_raise(name, message):
    with pytest.raises(ValueError, match=message):
        detector((name,))


def test_freezing_all_leaves_nothing_to_train():
    with pytest.raises(ValueError, match='shorten frozen_parts'):
        YOLOOptimConstructor(SGD)(detector('*'))
