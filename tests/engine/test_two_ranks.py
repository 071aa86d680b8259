"""Two processes take the same step as one process on all images."""

import pytest
import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.model import MMDistributedDataParallel
from rank_processes import run_ranks
from torch import nn
from toy_runner import ToyModel

from mmyolo_ext.engine.hooks import ema as step_ema
from mmyolo_ext.engine.optim import YOLOOptimWrapper

SAMPLES, ITERATIONS, ACCUMULATED = 12, 3, 2


class SummingModel(ToyModel):
    """The loss is a sum over the samples of all ranks, scaled so that the mean over ranks gives it."""

    def forward(self, x, mode='loss'):
        return {'loss': super().forward(x)['loss'] * get_world_size()}


def model_without_norm() -> ToyModel:
    """Norm layers see other batches on two ranks, so they are left out of the comparison."""
    model = SummingModel()
    model.norm = nn.Identity()
    return model


def train_epoch(model: nn.Module, samples: torch.Tensor) -> None:
    """An epoch of three iterations, two to a step: the third is flushed alone."""
    bare = model.module if isinstance(model, MMDistributedDataParallel) else model
    wrapper = YOLOOptimWrapper(optimizer=torch.optim.SGD(bare.parameters(), lr=1e-3, momentum=0.9))
    wrapper.begin_epoch(ACCUMULATED, ITERATIONS)
    for batch in samples.chunk(ITERATIONS):
        model.train_step({'x': batch}, wrapper)


def train_rank(samples: torch.Tensor) -> dict[str, torch.Tensor]:
    """Train on every second sample; return the weights."""
    model = model_without_norm()
    train_epoch(MMDistributedDataParallel(model, device_ids=None), samples[get_rank() :: 2])
    return model.state_dict()


@pytest.mark.slow
def test_two_ranks_step_like_one(tmp_path):
    # the k-th batch of one process has the samples of the k-th batches of both ranks
    samples = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(3))
    alone, start = model_without_norm(), model_without_norm().state_dict()
    train_epoch(alone, samples)
    for weights in run_ranks(train_rank, 2, tmp_path, samples):
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-7, msg=key)
            assert not torch.equal(value, start[key])


def test_statistics_of_the_ema_are_averaged_over_ranks(monkeypatch):
    reduced = []
    monkeypatch.setattr(step_ema, 'is_distributed', lambda: True)
    monkeypatch.setattr(step_ema, 'all_reduce_params', lambda buffers, op: reduced.append((buffers, op)))
    hook = step_ema.StepEMAHook()
    hook.ema_model = nn.Module()
    hook.ema_model.module = ToyModel()
    hook.after_train_epoch(runner=None)
    ((buffers, op),) = reduced
    norm = hook.ema_model.module.norm
    # the count of batches is a whole number: its mean would not be one
    assert op == 'mean' and {id(b) for b in buffers} == {id(norm.running_mean), id(norm.running_var)}
