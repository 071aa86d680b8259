"""Every trainable parameter in exactly one group, by its role."""

import pytest
import torch
from torch import nn
from toy_runner import ToyModel

from mmyolo_ext.engine.optim.constructor import YOLOOptimConstructor, group_by_role

WRAPPER = {'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.9, 'weight_decay': 5e-4}}


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
        YOLOOptimConstructor(WRAPPER, {'norm_decay_mult': 0})
    with pytest.raises(ValueError, match='optimizer'):
        YOLOOptimConstructor({'type': 'YOLOOptimWrapper'})
    with pytest.raises(ValueError, match='"lr"'):
        YOLOOptimConstructor({'optimizer': {'type': 'AdamW'}})
