"""Fused optimizers of PyTorch: used where available, disabled by the config, compatible when resuming."""

import copy

import pytest
import torch
from toy_runner import ToyModel

from mmyolo_ext.engine.optim import YOLOOptimConstructor
from mmyolo_ext.engine.optim.wrapper import YOLOOptimWrapper

SGD = {'type': 'SGD', 'lr': 0.01, 'momentum': 0.937, 'nesterov': True, 'weight_decay': 5e-4}
ADAMW = {'type': 'AdamW', 'lr': 0.002, 'weight_decay': 0.05}


def wrapper_of(model: torch.nn.Module, optimizer: dict) -> YOLOOptimWrapper:
    return YOLOOptimConstructor({'optimizer': optimizer})(model)


def step(model: ToyModel, wrapper: YOLOOptimWrapper, seed: int) -> None:
    inputs = torch.randn(4, 4, generator=torch.Generator().manual_seed(seed))
    wrapper.update_params(model(inputs)['loss'])


def fused(wrapper: YOLOOptimWrapper) -> set:
    return {group.get('fused') for group in wrapper.optimizer.param_groups}


@pytest.mark.parametrize('optimizer', [SGD, ADAMW], ids=['SGD', 'AdamW'])
def test_the_fused_form_takes_the_same_steps(optimizer: dict) -> None:
    models = [ToyModel(), ToyModel()]
    wrappers = [wrapper_of(models[0], optimizer), wrapper_of(models[1], {**optimizer, 'fused': False})]
    assert [fused(wrapper) for wrapper in wrappers] == [{True}, {False}]
    for seed in range(20):
        for model, wrapper in zip(models, wrappers, strict=True):
            step(model, wrapper, seed)
    ours, theirs = (dict(model.named_parameters()) for model in models)
    start = dict(ToyModel().named_parameters())
    assert all(not torch.equal(ours[name], start[name]) for name in ours)
    for name in ours.keys() - {'conv.bias'}:  # a norm follows it, its gradient is noise, which Adam blows up
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('form', [{'fused': False}, {'foreach': True}, {'foreach': False}, {'differentiable': True}])
def test_the_config_decides(form: dict) -> None:
    (found,) = fused(wrapper_of(ToyModel(), {**SGD, **form}))
    assert not found


def test_optimizers_without_a_fused_form() -> None:
    assert fused(wrapper_of(ToyModel(), {'type': 'RMSprop', 'lr': 0.01})) == {None}


class Complex(torch.nn.Module):
    """PyTorch's fused forms take real numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(2, dtype=torch.complex64))


def test_parameters_that_cannot_be_fused() -> None:
    wrapper = wrapper_of(Complex(), SGD)
    assert not any(fused(wrapper))
    assert [(group['role'], group['lr_mult'], group['lr']) for group in wrapper.optimizer.param_groups] == [
        ('no_decay', 1.0, 0.01)
    ]


@pytest.mark.parametrize('optimizer', [SGD, ADAMW], ids=['SGD', 'AdamW'])
@pytest.mark.parametrize(('before', 'after'), [(False, True), (True, False)])
def test_a_checkpoint_of_the_other_form_resumes(optimizer: dict, before: bool, after: bool) -> None:
    model = ToyModel()
    first = wrapper_of(model, {**optimizer, **({} if before else {'fused': False})})
    for seed in range(3):
        step(model, first, seed)
    first.optimizer.param_groups[0]['lr'] = 0.003  # what a schedule did to it
    other = copy.deepcopy(model)
    second = wrapper_of(other, {**optimizer, **({} if after else {'fused': False})})
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert (fused(first), fused(second)) == ({before}, {after})
    assert second.optimizer.param_groups[0]['lr'] == 0.003
    for seed in range(3, 6):
        step(model, first, seed)
        step(other, second, seed)
    mine, theirs = dict(model.named_parameters()), dict(other.named_parameters())
    for name in mine.keys() - {'conv.bias'}:
        torch.testing.assert_close(mine[name], theirs[name], rtol=1e-4, atol=1e-6)
