"""A training of the toy in a process of its own, or in several, that is hit by a signal or a failure.

Run as a script it is one rank of torchrun: ``torchrun --nproc-per-node 2 stoppable.py FOLDER EVENT ITERATION RANK``.
"""

import errno
import os
import runpy
import signal
import sys
import time
import traceback
from pathlib import Path

import torch
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from torch import distributed
from toy_runner import RECIPE_HOOKS, ToyDataset, toy_runner

from mmyolo_ext.apis.distributed import end_with_launcher
from mmyolo_ext.cli import common

TOOLS = Path(__file__).parents[2] / 'tools'
EPOCHS = 3
FAR = 10_000  # epochs of a training that only a signal from outside ends


class Count(BaseMetric):
    """Number of batches."""

    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'count': len(results)}


@HOOKS.register_module()
class Strike(Hook):
    """Lets an event happen before an iteration, counted from 0, on one rank; 'validation' counts epochs."""

    priority = 'VERY_HIGH'

    def __init__(self, event: str, iteration: int, rank: int) -> None:
        self.event, self.iteration, self.rank = event, iteration, rank

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.iteration and runner.rank == self.rank:
            self.strike(runner)

    def after_val_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if self.event == 'validation' and runner.epoch == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)

    def strike(self, runner) -> None:
        (Path(runner.work_dir) / 'struck').touch()
        if self.event == 'term':
            os.kill(os.getpid(), signal.SIGTERM)
        elif self.event == 'ctrl-c':  # the terminal sends it to the loader's workers too
            os.killpg(os.getpgrp(), signal.SIGINT)
        elif self.event == 'kill':
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.event == 'worker':
            pid = workers()[0]
            os.kill(pid, signal.SIGKILL)
            os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        elif self.event in ('full', 'forbidden'):
            raise OSError({'full': errno.ENOSPC, 'forbidden': errno.EACCES}[self.event], 'from the system', 'a.json')
        elif self.event == 'launcher term':
            os.kill(os.getppid(), signal.SIGTERM)
        elif self.event == 'launcher kill':
            os.kill(os.getppid(), signal.SIGKILL)


def workers() -> list[int]:
    """Return the ids of the processes that this one has started."""
    return [int(pid) for pid in Path(f'/proc/self/task/{os.getpid()}/children').read_text().split()]


def train(folder: Path, event: str = '', iteration: int = -1, rank: int = 0, resume: bool = False, **settings) -> None:
    """Train and note the processes, those of the loader's workers included, in ``folder/pids_RANK``."""
    several = 'RANK' in os.environ
    if several:
        distributed.init_process_group('gloo')
    loader = {
        'dataset': ToyDataset(20 if several else 10),
        'sampler': {'type': 'DefaultSampler', 'shuffle': True},
        'batch_size': 2,
        'num_workers': 2,
        'collate_fn': {'type': 'default_collate'},
    }
    wrapper = {'type': 'MMDistributedDataParallel', 'broadcast_buffers': False, 'device_ids': None}
    runner = toy_runner(
        folder / 'run',
        train_dataloader=loader,
        val_dataloader={**loader, 'dataset': ToyDataset(6), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}},
        val_cfg={'type': 'ValLoop'},
        val_evaluator=[Count()],
        resume=resume,
        launcher='pytorch' if several else 'none',
        config={'model_wrapper_cfg': wrapper},
        hooks=[{**RECIPE_HOOKS[0], 'nominal_batch_size': 8 if several else 4}, *RECIPE_HOOKS[1:3], Note(folder)],
        **{'max_epochs': EPOCHS, **settings},
    )
    if event:
        runner.register_hook(Strike(event, iteration, rank))
    runner.train()
    if runner.rank == 0:
        torch.save(runner.model.state_dict(), folder / 'final.pt')


class Note(Hook):
    """Writes down which processes there are."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if batch_idx == 0:
            (self.folder / f'pids_{runner.rank}').write_text(' '.join(map(str, [os.getpid(), *workers()])))


def in_own_process(folder: Path, *arguments, ranks: int = 1, **settings) -> None:
    """Be the process of a training, or a launcher of several; all output goes to ``folder/output``.

    The launcher does what torchrun does: it sends SIGTERM to all when one fails, and passes SIGTERM on.
    """
    _detach(folder)
    sys.argv = ['train.py', 'mine.py', '--resume']
    if ranks == 1:
        _run(lambda: common.tool(lambda: train(folder, *arguments, **settings))())
    started = [_start_rank(rank, ranks, folder, arguments, settings) for rank in range(ranks)]

    def pass_on(*_):
        for pid in started:
            os.kill(pid, signal.SIGTERM)

    signal.signal(signal.SIGTERM, pass_on)
    codes = {}
    while len(codes) < ranks:
        pid, status = os.wait()
        codes[pid] = os.waitstatus_to_exitcode(status)
        if codes[pid]:
            for other in set(started) - codes.keys():
                os.kill(other, signal.SIGTERM)
    (folder / 'codes').write_text(' '.join(str(codes[pid]) for pid in started))
    os._exit(max(map(abs, codes.values())))


def tool_in_own_process(folder: Path, name: str, *arguments: object) -> None:
    """Be the process of one of the tools; all output goes to ``folder/output``."""
    _detach(folder)
    sys.argv = [name, *map(str, arguments)]
    _run(lambda: runpy.run_path(str(TOOLS / name), run_name='__main__'))


def _detach(folder: Path) -> None:
    os.setsid()
    output = os.open(folder / 'output', os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)


def _start_rank(rank: int, ranks: int, folder: Path, arguments: tuple, settings: dict) -> int:
    pid = os.fork()
    if pid:
        return pid
    os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(ranks), TORCHELASTIC_RUN_ID='test')
    os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT=(folder / 'port').read_text())
    end_with_launcher()
    end_process = common._end_process

    def end_in_order(*arguments) -> None:
        time.sleep(0.3 * rank)  # so that the launcher's SIGTERM, after the end of the first rank, reaches the second
        end_process(*arguments)

    common._end_process = end_in_order
    _run(lambda: common.tool(lambda: train(folder, *arguments, **settings))())


def _run(main) -> None:
    """Call ``main`` and end this process with its exit code."""
    code = 1
    try:
        main()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def wait_until(condition, seconds: float) -> float:
    """Return the seconds until a condition holds.

    Raises:
        TimeoutError: If it does not hold in time.
    """
    start = time.monotonic()
    while not condition():
        if time.monotonic() - start > seconds:
            raise TimeoutError(f'not within {seconds} s')
        os.sched_yield()
    return time.monotonic() - start


if __name__ == '__main__':
    place, what, when, where = sys.argv[1:]
    end_with_launcher()
    common.tool(lambda: train(Path(place), what, int(when), int(where), max_epochs=FAR))()
