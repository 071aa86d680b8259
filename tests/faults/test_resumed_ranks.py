"""Two processes that are ended and resumed end as two that were not, to the last bit."""

import os
import shutil
import signal
import socket
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from rank_processes import PRELOADED
from torch import distributed, nn
from torch.multiprocessing import get_context, start_processes
from toy_runner import RECIPE_HOOKS, ToyDataset, toy_runner

from mmyolo_ext.checkpoint.lock import WorkDirLock
from mmyolo_ext.engine.stopping import StopTraining

pytestmark = pytest.mark.slow
GLOO = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}


class Toy2d(BaseModel):
    """A convolution whose weights can lie channels-last, and a norm, whose statistics differ between ranks."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = nn.Conv2d(4, 6, 2)
        self.norm = nn.BatchNorm2d(6)
        self.linear = nn.Linear(24, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2

    def forward(self, x, mode='loss'):
        images = x[:, :, None, None] * torch.linspace(0.5, 1.5, 9).view(1, 1, 3, 3)
        out = self.linear(self.norm(self.conv(images)).flatten(1))
        return {'loss': ((out - x.sum(1, keepdim=True)) ** 2).sum()} if mode == 'loss' else [out]


class End(Hook):
    """Ends the run after an iteration: as a kill of all, or by a signal to one rank."""

    priority = 'LOWEST'

    def __init__(self, after: int, rank: int | None) -> None:
        self.after, self.rank = after, rank

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.after:
            if self.rank is None:
                raise KeyboardInterrupt
            if self.rank == runner.rank:
                os.kill(os.getpid(), signal.SIGTERM)


def run_rank(rank: int, port: int, runs: list[tuple[str, tuple | None, dict]]) -> None:
    """Make several trainings, one after the other, as one of two processes, see :func:`train`."""
    os.environ.update(
        MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE='2', LOCAL_RANK=str(rank)
    )
    torch.set_num_threads(1)
    distributed.init_process_group('gloo')
    for number, (work_dir, end, settings) in enumerate(runs):
        torch.save(one_run(work_dir, end, launcher='pytorch', **settings), Path(work_dir) / f'{number}_{rank}.pt')
    distributed.destroy_process_group()


def one_run(work_dir: str, end: tuple | None, **settings) -> dict:
    """The end of a training, or the error it met."""
    try:
        runner = toy_runner(
            work_dir,
            model=Toy2d(),
            dataset=ToyDataset(20),
            hooks=[*RECIPE_HOOKS[:3], {'type': 'SyncBuffersHook'}, *([End(*end)] if end else [])],
            config={'model_wrapper_cfg': GLOO, 'memory_format': 'channels_last'},
            **settings,
        )
        runner.train()
    except (KeyboardInterrupt, ValueError) as error:
        return {'error': str(error)}
    except StopTraining as stop:
        return {'code': stop.code, 'error': str(stop)}
    model = runner.model.module if hasattr(runner.model, 'module') else runner.model
    assert model.conv.weight.is_contiguous(memory_format=torch.channels_last)
    return {'state': model.state_dict(), 'iter': runner.iter}


def train(*runs: tuple[Path, tuple | None, dict]) -> list[list[dict]]:
    """Results of both ranks of each run; a run is its work dir, its :class:`End`, and settings of the runner."""
    for work_dir, *_ in runs:
        work_dir.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    get_context('forkserver').set_forkserver_preload(PRELOADED)
    arguments = port, [(str(work_dir), *rest) for work_dir, *rest in runs]
    start_processes(run_rank, arguments, nprocs=2, start_method='forkserver')
    return [
        [torch.load(work_dir / f'{number}_{rank}.pt') for rank in range(2)]
        for number, (work_dir, *_) in enumerate(runs)
    ]


def assert_same(first: dict, second: dict) -> None:
    assert first.keys() == second.keys()
    for key, value in first.items():
        assert torch.equal(value, second[key]), key


RESUME = {'resume': True}
# 20 samples over two ranks in batches of two: five iterations an epoch, each of them a step
ENDS = {'killed': (11, None), 'stopped': (7, 1)}


@pytest.fixture(scope='module')
def ended(tmp_path_factory):
    """Runs of four epochs: in one go; killed and resumed; stopped by a signal to one rank; resumed by one rank."""
    folder = tmp_path_factory.mktemp('two')
    (folder / 'locked').mkdir()
    lock = WorkDirLock(folder / 'locked')
    runs = [(folder / 'straight', None, {}), (folder / 'locked', None, {})]
    runs += [(folder / name, end, {}) for name, end in ENDS.items()]
    found = train(*runs)
    lock.release()
    files = {name: sorted(path.name for path in (folder / name).glob('*.pth')) for name in ENDS}
    stopped = torch.load(folder / 'stopped' / 'iter_8.pth')
    shutil.copytree(folder / 'straight', folder / 'alone', ignore=shutil.ignore_patterns('*_3.pth', '*_4.pth'))
    # ten iterations an epoch on one rank: 20 are done after two epochs
    alone = one_run(str(folder / 'alone'), (23, 0), resume=True)
    assert alone['code'] == 143 and (folder / 'alone' / 'iter_22.pth').exists(), 'two batches a step'
    resumed = train(*[(folder / name, None, RESUME) for name in (*ENDS, 'alone')])
    return folder, dict(zip(['straight', 'locked', *ENDS], found, strict=True)), files, stopped, resumed


@pytest.mark.parametrize('name', ENDS)
def test_two_ranks_resume_to_the_last_bit(ended, name):
    folder, results, _, _, resumed = ended
    for one, other in zip(results['straight'], resumed[list(ENDS).index(name)], strict=True):
        assert one['iter'] == other['iter'] == 20
        assert_same(one['state'], other['state'])
    first, second = (torch.load(folder / run / 'epoch_4.pth') for run in ('straight', name))
    for key in ('state_dict', 'ema_state_dict'):
        assert_same(first[key], second[key])
    for key, state in first['optimizer']['state'].items():
        assert_same(state, second['optimizer']['state'][key])


def test_a_signal_to_one_rank_stops_both_at_one_iteration(ended):
    _, results, files, stopped, _ = ended
    assert files == {'killed': ['epoch_1.pth', 'epoch_2.pth'], 'stopped': ['epoch_1.pth', 'iter_8.pth']}
    assert [result['code'] for result in results['stopped']] == [143, 143]
    statistics = [part['model']['norm.running_mean'] for part in stopped['rank_buffers']]
    assert not torch.equal(*statistics), 'each rank has seen other images'


def test_all_ranks_hear_that_the_folder_is_in_use(ended):
    errors = [result['error'] for result in ended[1]['locked']]
    assert errors[0] == errors[1] and f'in use by another training (process {os.getpid()} on' in errors[0]


def test_another_number_of_ranks_is_rescaled_between_epochs_alone(ended):
    for result in ended[-1][-1]:
        assert 'processes 1 -> 2' in result['error'] and 'inside an epoch' in result['error']
