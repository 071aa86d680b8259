"""Gradients are summed, steps never cross an epoch, AMP works on a CPU."""

import pytest
import torch
from torch import nn

from mmyolo_ext.engine.optim.wrapper import YOLOAmpOptimWrapper, YOLOOptimWrapper

LR = 0.1


def line(weight=2.0) -> nn.Linear:
    model = nn.Linear(1, 1, bias=False)
    nn.init.constant_(model.weight, weight)
    return model


def wrap(model: nn.Module, cls=YOLOOptimWrapper, **kwargs) -> YOLOOptimWrapper:
    return cls(optimizer=torch.optim.SGD(model.parameters(), lr=LR), **kwargs)


def test_accumulated_steps_equal_one_big_batch():
    x = torch.tensor([[1.0], [2.0], [3.0], [4.0]])
    model = line()
    wrapper = wrap(model)
    wrapper.begin_epoch(accumulative_counts=2, epoch_length=2)
    for half in x.split(2):
        wrapper.update_params(model(half).pow(2).sum())
    # d/dw sum (w x)^2 = 2 w sum x^2 = 2 * 2 * 30 = 120; w = 2 - 0.1 * 120 = -10
    assert model.weight.item() == pytest.approx(-10.0)


def steps_of(wrapper: YOLOOptimWrapper, model: nn.Module, iterations: int) -> list[bool]:
    stepped = []
    for _ in range(iterations):
        before, synced = model.weight.item(), wrapper.should_sync()
        wrapper.update_params(model(torch.ones(1, 1)).sum())
        stepped.append(model.weight.item() != before)
        assert stepped[-1] == wrapper.should_update() == synced
    return stepped


def test_an_epoch_ends_with_a_step_and_the_next_counts_anew():
    model = line()
    wrapper = wrap(model)
    for _ in range(2):
        wrapper.begin_epoch(accumulative_counts=2, epoch_length=5)
        assert steps_of(wrapper, model, 5) == [False, True, False, True, True]
    # 10 iterations of gradient 1 each: nothing is lost at the ends
    assert model.weight.item() == pytest.approx(2.0 - LR * 10)


def test_resuming_after_an_epoch_counts_like_going_on():
    model = line()
    wrapper = wrap(model)
    wrapper.initialize_count_status(model, init_counts=5, max_counts=15)  # MMEngine, on resuming after 5 of 15
    wrapper.begin_epoch(accumulative_counts=2, epoch_length=5)
    assert steps_of(wrapper, model, 5) == [False, True, False, True, True]


def test_amp_on_a_cpu_runs_bfloat16_and_steps():
    model = line(2.0)
    wrapper = wrap(model, YOLOAmpOptimWrapper)
    wrapper.begin_epoch(1, 1)
    with wrapper.optim_context(model):
        out = model(torch.tensor([[3.0]]))
    assert out.dtype == torch.bfloat16
    wrapper.update_params(out.float().sum())
    assert model.weight.item() == pytest.approx(2.0 - LR * 3.0)
    other = wrap(line(), YOLOAmpOptimWrapper)
    other.load_state_dict(wrapper.state_dict())


def test_amp_loads_a_checkpoint_trained_without_it():
    wrap(line(), YOLOAmpOptimWrapper).load_state_dict(wrap(line()).state_dict())


def test_amp_settings_that_cannot_work_are_refused():
    with pytest.raises(ValueError, match='CUDA'):
        wrap(line(), YOLOAmpOptimWrapper, dtype='float16')
    with pytest.raises(ValueError, match='bfloat16'):
        wrap(line(), YOLOAmpOptimWrapper, dtype='int8')
    with pytest.raises(ValueError, match='static'):
        wrap(line(), YOLOAmpOptimWrapper, loss_scale='static')


def test_clipping_acts_on_the_sum():
    model = line()
    wrapper = wrap(model, YOLOAmpOptimWrapper, clip_grad={'max_norm': 1.0})
    wrapper.begin_epoch(2, 2)
    for _ in range(2):
        wrapper.update_params(3 * model(torch.ones(1, 1)).sum())
    # gradient 3 + 3 = 6, clipped to 1
    assert model.weight.item() == pytest.approx(2.0 - LR, abs=1e-6)
