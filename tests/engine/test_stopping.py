"""Signals and failures end a training saved, with one last line and the right exit code; resumed, nothing is lost."""

import multiprocessing
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from stoppable import FAR, in_own_process, tool_in_own_process, wait_until
from tiny_coco import make_tiny_coco, write_user_config
from torch import distributed
from torch.utils.data import DataLoader
from toy_runner import ToyDataset

from mmyolo_ext.engine.stopping import Stopper, StopTraining, protect_workers, reason_of

HERE = Path(__file__).parent
SECONDS = 60  # to wait for what takes a few


class Trainings:
    """Trainings in processes of their own, forked from a server that has imported everything."""

    def __init__(self, context) -> None:
        self.context = context

    def start(self, folder: Path, *arguments, of=in_own_process, **settings):
        folder.mkdir(exist_ok=True)
        (folder / 'output').unlink(missing_ok=True)
        (folder / 'port').write_text(str(free_port()))
        process = self.context.Process(target=of, args=(folder, *arguments), kwargs=settings)
        process.start()
        return process

    def run(self, folder: Path, *arguments, **settings) -> tuple[int, str]:
        """Exit code and output."""
        process = self.start(folder, *arguments, **settings)
        process.join(SECONDS)
        assert process.exitcode is not None, (folder / 'output').read_text()
        return process.exitcode, (folder / 'output').read_text()


def free_port() -> int:
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        return free.getsockname()[1]


@pytest.fixture(scope='module')
def trainings():
    context = multiprocessing.get_context('forkserver')
    before = os.environ.get('PYTHONPATH')
    os.environ['PYTHONPATH'] = os.pathsep.join([str(HERE), *filter(None, [before])])
    context.set_forkserver_preload(['stoppable', 'torch._dynamo', 'mmdet.engine', 'mmdet.evaluation', 'mmdet.models'])
    yield Trainings(context)
    if before is None:
        del os.environ['PYTHONPATH']
    else:
        os.environ['PYTHONPATH'] = before


@pytest.fixture(scope='module')
def undisturbed(trainings, tmp_path_factory) -> dict[int, dict[str, torch.Tensor]]:
    """Final weights of one process and of two."""
    folder = tmp_path_factory.mktemp('undisturbed')
    weights = {}
    for ranks in (1, 2):
        code, output = trainings.run(folder / str(ranks), ranks=ranks)
        assert code == 0, output
        weights[ranks] = torch.load(folder / str(ranks) / 'final.pt')
    return weights


def assert_same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(found[name], value), name


def all_gone(folder: Path) -> bool:
    pids = [pid for file in folder.glob('pids_*') for pid in file.read_text().split()]
    assert pids
    return not any(
        Path(f'/proc/{pid}').exists() and ' Z ' not in Path(f'/proc/{pid}/stat').read_text() for pid in pids
    )


# An epoch has 5 iterations, the steps are after the 2nd, 4th and 5th. Iteration 7 is the third of the second epoch: a
# training that must stop in it has seen 8 batches, and the last step was after 7.
@pytest.mark.parametrize(
    ('event', 'when', 'code', 'line'),
    [
        ('term', 7, 143, r'Stopped by SIGTERM at epoch 2, iteration 3\. Saved \S+iter_7\.pth'),
        ('ctrl-c', 7, 130, r'Interrupted at epoch 2, iteration 3\. Saved \S+iter_7\.pth'),
        ('validation', 2, 143, r'Stopped by SIGTERM at epoch 3, iteration 0\. Saved \S+epoch_2\.pth'),
        (
            'worker',
            7,
            1,
            r'Stopped at epoch 2, iteration 2: a worker of the data loader died .*Killed.* Saved \S+iter_7\.pth',
        ),
        ('full', 7, 1, r'Stopped at epoch 2, iteration 2: the disk is full \(a\.json\)\. Saved \S+iter_7\.pth'),
        (
            'forbidden',
            7,
            1,
            r'Stopped at epoch 2, iteration 2: permission was lost \(a\.json\)\. Saved \S+iter_7\.pth',
        ),
    ],
)
def test_one_process_stops_saved_and_resumes_bitwise(trainings, undisturbed, tmp_path, event, when, code, line):
    found, output = trainings.run(tmp_path, event, when)
    last = output.strip().splitlines()[-1]
    assert (found, 'Traceback' in output) == (code, False), output
    assert re.fullmatch(line + r'\. Resume with: python train\.py mine\.py --resume', last), last
    assert all_gone(tmp_path)
    code, output = trainings.run(tmp_path, resume=True)
    assert code == 0, output
    assert_same(torch.load(tmp_path / 'final.pt'), undisturbed[1])


@pytest.mark.parametrize(
    ('event', 'rank', 'codes', 'line'),
    [
        ('term', 1, [143, 143], r'Stopped by SIGTERM at epoch 2, iteration 4\. Saved \S+iter_9\.pth'),
        ('kill', 1, [1, -9], r'Stopped at .*: another process of this training ended or .* Saved \S+iter_7\.pth'),
        ('worker', 1, [1, 1], r'Stopped at .*: another process of this training ended or .* Saved \S+iter_7\.pth'),
        ('kill', 0, [-9, 1], r'process 1: Stopped at .*: another process of this training ended or .*'),
    ],
    ids=['one must stop', 'one is killed', 'a worker of one is killed', 'the first is killed'],
)
def test_two_ranks_stop_together(trainings, undisturbed, tmp_path, event, rank, codes, line):
    _, output = trainings.run(tmp_path, event, 7, rank, ranks=2)
    assert 'Traceback' not in output, output
    assert list(map(int, (tmp_path / 'codes').read_text().split())) == codes, output
    assert any(re.match(line, printed) for printed in output.splitlines()), output
    assert all_gone(tmp_path)
    code, output = trainings.run(tmp_path, ranks=2, resume=True)
    assert code == 0, output
    found = torch.load(tmp_path / 'final.pt')
    if event == 'term':
        assert_same(found, undisturbed[2])
    else:  # the statistics of the rank that is gone are lost, which no weight depends on
        weights = [name for name in found if 'running' not in name and 'tracked' not in name]
        assert_same({name: found[name] for name in weights}, {name: undisturbed[2][name] for name in weights})


def test_ranks_end_with_their_launcher(trainings, tmp_path):
    for event, folder in (('launcher kill', tmp_path / 'killed'), ('launcher term', tmp_path / 'stopped')):
        process = trainings.start(folder, event, 7, 0, ranks=2, max_epochs=FAR)
        process.join(SECONDS)
        assert wait_until(lambda folder=folder: all_gone(folder), SECONDS) < 10
        output = (folder / 'output').read_text()
        assert re.search(r'^Stopped by SIGTERM at .* Saved \S+\.pth\. Resume with: ', output, re.MULTILINE), output
        assert 'Traceback' not in output
        assert (folder / 'run' / 'last_checkpoint').exists()


@pytest.mark.slow
def test_torchrun_takes_its_processes_along(tmp_path):
    event = 'launcher kill'
    arguments = ['--nproc-per-node', 2, '--master-port', free_port(), HERE / 'stoppable.py', tmp_path, event, 7, 0]
    with (tmp_path / 'output').open('w') as output:
        subprocess.run(
            [sys.executable, '-m', 'torch.distributed.run', *map(str, arguments)],
            stdout=output,
            stderr=output,
            env={**os.environ, 'PYTHONPATH': str(HERE)},
            timeout=2 * SECONDS,
            start_new_session=True,
        )
    wait_until(lambda: all_gone(tmp_path), SECONDS)
    assert re.search(r'^Stopped by SIGTERM at .* Saved \S+\.pth\. ', (tmp_path / 'output').read_text(), re.MULTILINE)


STRIKE = "custom_hooks = [dict(type='Strike', event='term', iteration=8, rank=0)]"


@pytest.mark.slow
def test_the_training_tool_saves_within_ten_seconds_and_resumes_bitwise(trainings, tmp_path):
    data = make_tiny_coco(tmp_path / 'data', train=12)
    # 6 iterations an epoch, a step every second one: iteration 8, counted from 0, is amid an epoch and amid a step
    lines = [
        'max_epochs = 2',
        'train_dataloader = dict(num_workers=2, persistent_workers=True)',
        'default_hooks = dict(report=None, curves=None, accumulate=dict(nominal_batch_size=4))',
    ]
    config = write_user_config(tmp_path / 'mine.py', data, extra='\n'.join(lines))
    strike = tmp_path / 'strike.py'
    strike.write_text(f"_base_ = 'mine.py'\n{STRIKE}\n")

    def train(work_dir: str, *arguments) -> tuple[int, str]:
        return trainings.run(
            tmp_path, 'train.py', *arguments, '--work-dir', tmp_path / work_dir, of=tool_in_own_process
        )

    code, output = train('undisturbed', config)
    assert code == 0, output
    code, output = train('run', strike)
    last = output.strip().splitlines()[-1]
    assert code == 143 and re.match(r'Stopped by SIGTERM at epoch 2, iteration 3\. Saved \S+iter_8\.pth', last), output
    saved = tmp_path / 'run' / 'iter_8.pth'
    assert saved.stat().st_mtime - (tmp_path / 'run' / 'struck').stat().st_mtime < 10
    code, output = train('run', config, '--resume')
    assert code == 0 and 'Traceback' not in output, output
    found, wanted = (torch.load(tmp_path / name / 'epoch_2.pth') for name in ('run', 'undisturbed'))
    for key in ('state_dict', 'ema_state_dict'):
        assert_same(found[key], wanted[key])
    for number, state in wanted['optimizer']['state'].items():
        assert_same(found['optimizer']['state'][number], state)


@pytest.fixture
def small_disk(tmp_path):
    folder = tmp_path / 'small'
    folder.mkdir()
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=128k', 'tmpfs', folder], capture_output=True)
    if mounted.returncode:
        pytest.skip(f'a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}')
    yield folder
    subprocess.run(['umount', '-l', folder], check=True)


def test_a_full_disk_does_not_cost_the_last_good_checkpoint(trainings, tmp_path, small_disk):
    (tmp_path / 'run').symlink_to(small_disk)
    found, output = trainings.run(tmp_path, max_epochs=FAR)
    last = output.strip().splitlines()[-1]
    assert found == 1 and 'Traceback' not in output and 'No space left' in last
    path = re.search(r'the last good checkpoint is (\S+\.pth)', last)[1]
    assert torch.load(path, weights_only=True)['meta']['iter'] > 0
    with pytest.raises(OSError, match='No space left'):
        (small_disk / 'more').write_bytes(bytes(200_000))


class HangingDataset(ToyDataset):
    """Hangs at sample 39, after it has written the file ``at_39``."""

    def __init__(self, at_39: Path) -> None:
        super().__init__(40)
        self.at_39 = at_39

    def __getitem__(self, index: int) -> dict:
        if index == 39:
            self.at_39.touch()
            signal.sigwait([signal.SIGUSR1])
        return super().__getitem__(index)


@pytest.mark.parametrize('start_method', ['fork', 'spawn', 'forkserver'])
def test_workers_ignore_signals_of_others_and_obey_their_main_process(monkeypatch, tmp_path, start_method):
    at_39 = tmp_path / 'at_39'
    loader = DataLoader(HangingDataset(at_39), batch_size=2, num_workers=1, multiprocessing_context=start_method)
    protect_workers(loader)
    batches = iter(loader)
    next(batches)
    (worker,) = batches._workers
    for name in ('INT', *['TERM'] * 20):  # the system chooses the thread that gets one
        subprocess.run(['kill', f'-{name}', str(worker.pid)], check=True)
    assert len([next(batches) for _ in range(18)]) == 18  # more than the worker had prepared
    wait_until(at_39.exists, SECONDS)
    monkeypatch.setattr('torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL', 0.1)
    batches._shutdown_workers()  # as when an iterator is deleted
    worker.join(SECONDS)
    assert worker.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(('backend', 'saves'), [('gloo', 1), ('nccl', 0)])
def test_weights_that_a_lost_rank_may_have_spoilt_are_not_saved(monkeypatch, backend, saves):
    class Runner:
        rank, checkpoints, val_loop, saved = 0, None, None, 0
        train_loop = SimpleNamespace(epoch=0, iter=3, dataloader=DataLoader(range(5)))

        def save_emergency(self, reason: str, all_ranks: bool) -> None:
            self.saved += 1

    monkeypatch.setattr(distributed, 'get_backend', lambda: backend)
    runner = Runner()
    with (
        pytest.raises(StopTraining, match='at epoch 1, iteration 3: another process') as stop,
        Stopper().watch(runner),
    ):
        raise distributed.DistBackendError('NCCL communicator was aborted')
    assert (runner.saved, stop.value.code) == (saves, 1)


def test_other_errors_keep_their_traceback():
    assert reason_of(KeyError('a')) is None and reason_of(RuntimeError('shape mismatch')) is None
    assert reason_of(ValueError('No space left')) is None
    assert 'out of memory' in reason_of(MemoryError())
    chained = RuntimeError('cannot write')
    chained.__cause__ = OSError(28, 'No space left on device', 'epoch_1.pth')
    assert reason_of(chained) == 'the disk is full (epoch_1.pth)'


def test_only_a_second_ctrl_c_after_a_second_ends_at_once(monkeypatch):
    stopper, now = Stopper(), [100.0]
    monkeypatch.setattr('time.monotonic', lambda: now[0])
    stopper._note(signal.SIGINT, None)
    now[0] += 0.5  # torchrun passes on what the terminal has sent already
    stopper._note(signal.SIGINT, None)
    stopper._note(signal.SIGTERM, None)
    assert stopper._agreed() == signal.SIGINT
    now[0] += 1
    with pytest.raises(KeyboardInterrupt):
        stopper._note(signal.SIGINT, None)
