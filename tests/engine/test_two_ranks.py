"""Two processes take the same step as one process on all images."""

import os
import socket
from pathlib import Path

import pytest
import torch
from mmengine.dist import get_world_size
from mmengine.model import MMDistributedDataParallel
from torch import distributed, nn
from torch.multiprocessing import spawn
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


def run_rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2')
    distributed.init_process_group('gloo')
    model = model_without_norm()
    train_epoch(MMDistributedDataParallel(model, device_ids=None), torch.load(Path(folder) / 'samples.pt')[rank::2])
    torch.save(model.state_dict(), Path(folder) / f'{rank}.pt')
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_step_like_one(tmp_path):
    samples = torch.randn(SAMPLES, 4, generator=torch.Generator().manual_seed(3))
    # sorted so that the k-th batch of one process holds the k-th batches of both ranks
    torch.save(samples, tmp_path / 'samples.pt')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    spawn(run_rank, (port, str(tmp_path)), nprocs=2)
    alone, start = model_without_norm(), model_without_norm().state_dict()
    train_epoch(alone, samples)
    for rank in range(2):
        weights = torch.load(tmp_path / f'{rank}.pt')
        for key, value in alone.state_dict().items():
            torch.testing.assert_close(weights[key], value, rtol=1e-5, atol=1e-7, msg=f'{rank} {key}')
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
