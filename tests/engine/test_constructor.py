"""Parameter groups: every trainable parameter in exactly one, by its role, at the rate of its layer."""

import pytest
import torch
from mmengine.registry import MODELS, PARAM_SCHEDULERS, init_default_scope
from torch import nn
from toy_runner import RECIPE_HOOKS, ToyModel, toy_runner

from mmyolo_ext.engine.optim import YOLOOptimConstructor, constructor
from mmyolo_ext.engine.optim.constructor import group_by_role, layer_multiples, stage_levels

WRAPPER = {'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9, 'weight_decay': 5e-4}}


class Detector(nn.Module):
    """A backbone of three stages of one convolution and norm each, a neck and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.layers = nn.ModuleList(nn.Sequential(nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2)) for _ in range(3))
        self.neck = nn.Conv2d(2, 2, 1)
        self.bbox_head = nn.Conv2d(2, 3, 1)


def rates_of(model: nn.Module, groups: list[dict], key: str = 'lr') -> dict[str, float]:
    """The entry ``key`` of the group that each parameter is in."""
    held = {id(parameter): group[key] for group in groups for parameter in group['params']}
    return {name: held[id(parameter)] for name, parameter in model.named_parameters() if id(parameter) in held}


def test_rates_fall_with_the_distance_from_the_head():
    model = Detector()
    groups = YOLOOptimConstructor(WRAPPER, {'layer_decay': 0.5})(model).optimizer.param_groups
    rates = rates_of(model, groups)
    # three levels: 0.01 * 0.5 ** (3 - i); neck and head whole
    expected = {'backbone.layers.0': 0.00125, 'backbone.layers.1': 0.0025, 'backbone.layers.2': 0.005}
    for name, rate in rates.items():
        assert rate == pytest.approx(expected.get(name.rsplit('.', 2)[0], 0.01), rel=1e-12), name
    assert len(rates) == len(list(model.parameters()))


def test_roles_hold_at_every_rate():
    model = Detector()
    groups = YOLOOptimConstructor(WRAPPER, {'layer_decay': 0.5})(model).optimizer.param_groups
    decays, roles = rates_of(model, groups, 'weight_decay'), rates_of(model, groups, 'role')
    decaying = {name for name, parameter in model.named_parameters() if parameter.dim() == 4}
    assert {name for name, decay in decays.items() if decay == 5e-4} == decaying
    assert {name for name, decay in decays.items() if decay == 0.0} == decays.keys() - decaying
    assert {name for name, role in roles.items() if role == 'bias'} == {n for n in roles if n.endswith('bias')}
    # neck and head have no norm: 2 groups of theirs, 3 of each stage; the fastest is first, where its rate is logged
    assert len(groups) == 2 + 3 * 3 and groups[0]['lr'] == 0.01 and groups[0]['role'] == 'decay'


def test_keys_multiply_rate_and_decay_and_the_longest_counts():
    model = Detector()
    cfg = {
        'layer_decay': 0.5,
        'custom_keys': {
            'backbone': {'lr_mult': 0.1},
            'backbone.layers.2': {'decay_mult': 3.0},
            'bbox_head': {'lr_mult': 2.0, 'decay_mult': 0.0},
        },
    }
    groups = YOLOOptimConstructor(WRAPPER, cfg)(model).optimizer.param_groups
    rates, decays = rates_of(model, groups), rates_of(model, groups, 'weight_decay')
    assert rates['backbone.layers.0.0.weight'] == pytest.approx(0.01 * 0.125 * 0.1)
    assert rates['backbone.layers.2.0.weight'] == pytest.approx(0.01 * 0.5)  # the longer key sets no rate
    assert decays['backbone.layers.2.0.weight'] == pytest.approx(1.5e-3)
    assert decays['backbone.layers.2.1.weight'] == 0.0  # a norm does not decay, whatever the multiple
    assert (rates['bbox_head.weight'], decays['bbox_head.weight']) == (0.02, 0.0)
    assert (rates['neck.weight'], decays['neck.weight']) == (0.01, 5e-4)


def test_frozen_parameters_are_in_no_group_and_change_no_rate(monkeypatch):
    model = Detector()
    model.backbone.layers[0].requires_grad_(False)
    logged = []
    monkeypatch.setattr(constructor, 'print_log', lambda text, logger: logged.append(text))
    groups = YOLOOptimConstructor(WRAPPER, {'layer_decay': 0.5})(model).optimizer.param_groups
    rates = rates_of(model, groups)
    assert not [name for name in rates if name.startswith('backbone.layers.0')]
    assert rates['backbone.layers.1.0.weight'] == 0.0025
    # a stage has 4 weights and 2 biases of the convolution, 2 and 2 of the norm; neck 6, head 9
    lines = logged[0].splitlines()
    assert lines[0] == 'Training 35 parameters; 10 are frozen (10 of backbone).'
    assert lines[2].split() == [
        *('0.01', '0.0005', 'decay', '2', '10', 'neck,', 'bbox_head'),
    ]  # fmt: skip


def test_biases_warm_up_by_the_rate_of_their_layer():
    model = Detector()
    wrapper = YOLOOptimConstructor(WRAPPER, {'layer_decay': 0.5})(model)
    cfg = {'type': 'mmyolo_ext.WarmupLinearLR', 'warmup_iters': 10, 'by_epoch': False, 'end': 100, 'bias_start': 0.1}
    scheduler = PARAM_SCHEDULERS.build(cfg, default_args={'optimizer': wrapper})
    first = rates_of(model, wrapper.optimizer.param_groups)
    assert (first['neck.bias'], first['backbone.layers.0.0.bias']) == (0.1, 0.0125)
    assert first['neck.weight'] == first['backbone.layers.0.0.weight'] == 0.0
    for _ in range(5):
        wrapper.optimizer.step()
        scheduler.step()
    # half way to 0.00125 (1 - 0.99 * 5 / 100) = 0.001188125
    rates = rates_of(model, wrapper.optimizer.param_groups)
    assert rates['backbone.layers.0.0.weight'] == pytest.approx(0.001188125 / 2, rel=1e-9)
    assert rates['backbone.layers.0.0.bias'] == pytest.approx((0.0125 + 0.001188125) / 2, rel=1e-9)


@pytest.mark.parametrize(
    ('names', 'levels'),
    [
        ('conv1 bn1 layer1.0.conv1 layer2.0.conv1', (0, 0, 1, 2)),  # ResNet
        ('layers.0.conv layers.1.0.conv layers.1.1.blocks.3.conv', (0, 1, 1)),  # ours: the stem is layers.0
        ('stem.conv stage1.0.conv stage2.0.blocks.7.conv', (0, 1, 2)),  # CSPDarknet
        ('patch_embed.norm stages.0.blocks.1 stages.1.blocks.0 norm1', (0, 1, 2, 2)),  # Swin
        ('conv1.conv layer1.0 layer2.0 conv2.conv', (0, 1, 2, 2)),  # MobileNetV2
        ('model.conv_stem model.blocks.0.0 model.blocks.1.2', (0, 1, 2)),  # timm
        ('model.stem_0 model.stages_0.blocks.2 model.stages_1.blocks.0', (0, 1, 2)),
        ('conv1.conv conv_res_block1.conv conv_res_block2.res0', (0, 1, 2)),  # Darknet-53
    ],
)
def test_levels_of_backbones_by_the_names_of_their_stages(names, levels):
    named = [f'backbone.{name}.weight' for name in names.split()]
    assert tuple(stage_levels([*named, 'neck.layers.0.weight']).values()) == levels


@pytest.mark.parametrize(
    ('backbone', 'count'),
    [
        ({'type': 'ResNet', 'depth': 18}, 5),  # a stem and four stages
        ({'type': 'SwinTransformer', 'embed_dims': 12, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 1, 1)}, 5),
        ({'type': 'CSPDarknet', 'widen_factor': 0.125, 'deepen_factor': 0.33}, 5),
        ({'type': 'mmyolo_ext.ShuffleNetV2', 'widen_factor': 0.5}, 4),  # a stem and three
        ({'type': 'mmyolo_ext.MobileNetV3', 'arch': 'small'}, 5),  # a stem and four
        ({'type': 'mmyolo_ext.YOLOv5CSPDarknet', 'arch': 'P6', 'widen_factor': 0.125, 'deepen_factor': 0.33}, 6),
    ],
    ids=lambda value: value['type'] if isinstance(value, dict) else '',
)
def test_levels_of_real_backbones_rise_from_stem_to_last_stage(backbone, count):
    init_default_scope('mmdet')
    model = nn.ModuleDict({'backbone': MODELS.build(backbone)})
    levels = list(stage_levels(name for name, _ in model.named_parameters()).values())
    assert levels == sorted(levels) and set(levels) == set(range(count))


@pytest.mark.parametrize('kind', ['ShuffleNetV2', 'MobileNetV3'])
def test_light_backbones_learn_by_level_and_not_where_they_are_frozen(kind):
    backbone = MODELS.build({'type': f'mmyolo_ext.{kind}', 'widen_factor': 0.5, 'frozen_stages': 1})
    model = nn.ModuleDict({'backbone': backbone.train(), 'neck': nn.Linear(2, 2)})
    wrapper = YOLOOptimConstructor({'optimizer': {'type': 'SGD', 'lr': 1.0}}, {'layer_decay': 0.5})(model)
    rates = rates_of(model, wrapper.optimizer.param_groups)
    levels = len(backbone.layers)
    # neck 1, the last stage 1/2, the one before it 1/4, ...; stem and first stage (0 and 1) have no rate
    expected = {f'backbone.layers.{i}.': 0.5 ** (levels - i) for i in range(2, levels)} | {'neck.': 1.0}
    found = {}
    for name, rate in rates.items():
        found.setdefault(next(start for start in expected if name.startswith(start)), set()).add(rate)
    assert found == {start: {rate} for start, rate in expected.items()}
    stopped = ('backbone.layers.0.', 'backbone.layers.1.')
    frozen = [name for name, _ in model.named_parameters() if name.startswith(stopped)]
    assert frozen and not rates.keys() & set(frozen)
    assert not backbone.layers[1].training and backbone.layers[2].training


def run_toy(folder, paramwise: dict, start=None):
    wrapper = {'type': 'mmyolo_ext.YOLOOptimWrapper', 'constructor': 'mmyolo_ext.YOLOOptimConstructor', **WRAPPER}
    settings = {'optim_wrapper': {**wrapper, 'paramwise_cfg': paramwise}, 'resume': start is not None}
    runner = toy_runner(folder, hooks=RECIPE_HOOKS, load_from=start and str(start), **settings)
    runner.train()
    return runner


def test_resuming_keeps_rates_and_the_bits(tmp_path):
    slower = {'custom_keys': {'conv': {'lr_mult': 0.25}}}
    whole = run_toy(tmp_path / 'whole', slower)
    middle = tmp_path / 'whole/epoch_2.pth'
    again = run_toy(tmp_path / 'again', slower, middle)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name]), name
    rates = rates_of(again.model, again.optim_wrapper.optimizer.param_groups)
    assert rates['conv.weight'] == rates['conv.bias'] == 0.25 * rates['linear.weight'] > 0
    with pytest.raises(ValueError, match='frozen_parts, frozen_stages and paramwise_cfg'):
        run_toy(tmp_path / 'other', {'custom_keys': {'conv': {'lr_mult': 0.5}}}, middle)


class Named(nn.Module):
    """A model whose parameters have the given names."""

    def __init__(self, names) -> None:
        super().__init__()
        self.names = names

    def named_parameters(self, *args, **kwargs):
        return ((name, nn.Parameter(torch.ones(1))) for name in self.names)


NAMES = ('backbone.layers.0.weight', 'neck.weight')


@pytest.mark.parametrize(
    ('cfg', 'names', 'message'),
    [
        ({'norm_decay_mult': 0.0}, NAMES, 'DefaultOptimWrapperConstructor'),
        ({'custom_keys': {'bakbone': {'lr_mult': 0.1}}}, NAMES, "did you mean 'backbone'"),
        ({'custom_keys': {'zzz': {}}}, NAMES, 'the names start with backbone.layers, neck.weight'),
        ({'custom_keys': {'neck': {'lr_mul': 0.1}}}, NAMES, "takes .'lr_mult', .*, got {'lr_mul': 0.1}"),
        ({'custom_keys': {'neck': {'lr_mult': -1}}}, NAMES, "'neck'. takes .* each a number of at least 0"),
        ({'custom_keys': {'neck': {'lr_mult': '0.1'}}}, NAMES, 'each a number'),
        ({'layer_decay': 0}, NAMES, 'greater than 0 and at most 1'),
        ({'layer_decay': 1.1}, NAMES, 'greater than 0 and at most 1'),
        ({'layer_decay': 0.9}, ('backbone.conv.weight',), 'got 0 in backbone.conv'),
        ({'layer_decay': 0.9}, ('neck.weight',), 'no backbone'),
        ({'layer_decay': 0.9}, tuple(f'backbone.layers.{i}.weight' for i in range(75)), 'got 75 in'),
    ],
)
def test_what_cannot_be_meant_is_refused(cfg, names, message):
    with pytest.raises(ValueError, match=message):
        layer_multiples(Named(names), cfg)


class Zoo(nn.Module):
    """One parameter of each kind that a grouping by name or by index gets wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.deconv = nn.ConvTranspose2d(4, 4, 2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 2)
        self.embedding = nn.Embedding(5, 4)
        self.scale = nn.Parameter(torch.ones(1))
        self.attention = nn.MultiheadAttention(4, 2)
        self.tied = self.linear
        self.frozen = nn.Conv2d(3, 4, 1)
        self.frozen.requires_grad_(False)


def test_roles_of_each_kind_of_parameter():
    model = Zoo()
    groups = group_by_role(model)
    assert all(p is model.get_parameter(name) for group in groups.values() for name, p in group.items())
    assert set(groups['decay']) == {
        'conv.weight', 'deconv.weight', 'linear.weight', 'attention.out_proj.weight'
    }  # fmt: skip
    assert set(groups['bias']) == {
        'conv.bias', 'norm.bias', 'linear.bias', 'attention.in_proj_bias', 'attention.out_proj.bias'
    }  # fmt: skip
    assert set(groups['no_decay']) == {
        'norm.weight', 'embedding.weight', 'scale', 'attention.in_proj_weight'
    }  # fmt: skip


def test_groups_partition_the_trainable_parameters():
    model = Zoo()
    grouped = [p for parameters in group_by_role(model).values() for p in parameters.values()]
    trainable = [p for p in model.parameters() if p.requires_grad]
    assert len(grouped) == len(trainable) and {id(p) for p in grouped} == {id(p) for p in trainable}


def test_only_the_first_role_decays():
    wrapper = YOLOOptimConstructor(WRAPPER)(ToyModel())
    assert [(g['role'], g['weight_decay']) for g in wrapper.optimizer.param_groups] == [
        ('decay', 5e-4),
        ('no_decay', 0.0),
        ('bias', 0.0),
    ]


def test_a_role_without_parameters_makes_no_group():
    wrapper = YOLOOptimConstructor(WRAPPER)(nn.Conv2d(1, 1, 1, bias=False))
    assert [g['role'] for g in wrapper.optimizer.param_groups] == ['decay']


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match='frozen_parts'):
        group_by_role(nn.Linear(2, 2).requires_grad_(False))
    with pytest.raises(ValueError, match='DefaultOptimWrapperConstructor'):
        YOLOOptimConstructor(WRAPPER, {'norm_decay_mult': 0})(ToyModel())
    with pytest.raises(ValueError, match='optimizer'):
        YOLOOptimConstructor({'type': 'YOLOOptimWrapper'})
    with pytest.raises(ValueError, match='lr=...'):
        YOLOOptimConstructor({'optimizer': {'type': 'AdamW'}})
