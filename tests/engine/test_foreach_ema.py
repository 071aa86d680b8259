"""EMA of all tensors by one call: mmdet's, to the last bit, and by hand."""

import copy
import math

import pytest
import torch
from mmengine.registry import MODELS
from torch import nn

import mmyolo_ext  # noqa: F401
from mmyolo_ext.engine.hooks.ema import ForeachEMA


def network() -> nn.Module:
    """Both layouts of weights, norm statistics, a buffer of whole numbers, and one that is not saved."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.Linear(4, 2)).to(memory_format=torch.channels_last)
    model.register_buffer('grid', torch.arange(3.0), persistent=False)
    return model


def mmdets(model: nn.Module, **settings) -> nn.Module:
    return MODELS.build({'type': 'mmdet.ExpMomentumEMA', 'model': model, **settings})


def train(model: nn.Module, generator: torch.Generator) -> None:
    """Move everything there is, as a step does: in place."""
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.add_(torch.randn(tensor.shape, generator=generator).to(tensor.dtype) + tensor.new_tensor(1))


@pytest.mark.parametrize('interval', [1, 2])
@pytest.mark.parametrize('update_buffers', [True, False])
def test_it_is_mmdets_to_the_last_bit(update_buffers: bool, interval: int) -> None:
    model, settings = (
        network(),
        {'momentum': 1e-4, 'gamma': 20, 'update_buffers': update_buffers, 'interval': interval},
    )
    theirs, ours = mmdets(model, **settings), ForeachEMA(model, **settings)
    generator = torch.Generator().manual_seed(1)
    for _ in range(7):
        train(model, generator)
        theirs.update_parameters(model)
        ours.update_parameters(model)
        expected, found = theirs.state_dict(), ours.state_dict()
        assert expected.keys() == found.keys()
        assert [name for name in expected if not torch.equal(expected[name], found[name])] == []
    assert found['module.0.weight'].is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(found['module.0.weight'], model[0].weight)


def test_by_hand() -> None:
    model = nn.Linear(1, 1, bias=False)
    ema = ForeachEMA(model, momentum=0.1, gamma=2)
    expected = None
    for update, weight in enumerate([5.0, 7.0, 4.0]):
        model.weight.data.fill_(weight)
        ema.update_parameters(model)
        # the first copies; then 0.9 exp(-(1 + n) / 2) + 0.1 of the way: exp(-1) -> 0.4311, exp(-1.5) -> 0.3008
        share = 0.9 * math.exp(-(1 + update) / 2) + 0.1
        expected = weight if expected is None else expected + share * (weight - expected)
        assert ema.module.weight.item() == pytest.approx(expected, rel=1e-6)
    assert expected == pytest.approx(5 + 0.431 * 2 - 0.3008 * (5 + 0.431 * 2 - 4), abs=2e-3)
    assert int(ema.steps) == 3


def test_what_is_not_in_the_graph_stays_out_of_it() -> None:
    model = network()
    ema = ForeachEMA(model, update_buffers=True)
    ema.update_parameters(model)
    ema.update_parameters(model)
    assert not any(tensor.requires_grad for tensor in ema.module.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_checkpoints_fit_both() -> None:
    model, generator = network(), torch.Generator().manual_seed(1)
    theirs = mmdets(model, update_buffers=True)
    for _ in range(3):
        train(model, generator)
        theirs.update_parameters(model)
    ours = MODELS.build({'type': 'mmyolo_ext.ForeachEMA', 'model': network(), 'update_buffers': True})
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for ema in (theirs, ours):
        ema.update_parameters(model)
    assert all(torch.equal(value, ours.state_dict()[name]) for name, value in theirs.state_dict().items())


def test_a_layer_that_was_exchanged_is_followed_from_the_next_epoch_on() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    ema = ForeachEMA(model, momentum=0.5, gamma=1)
    for _ in range(60):  # the weight of an update nears the momentum
        ema.update_parameters(model)
    before = float(ema.module[0].weight)
    model[0].weight = nn.Parameter(torch.full((1, 1), before + 8))
    ema.update_parameters(model)
    assert float(ema.module[0].weight) == before
    ema.find_tensors()
    ema.update_parameters(model)
    assert float(ema.module[0].weight) == pytest.approx(before + 4)
