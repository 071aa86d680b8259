"""Kill trainings by SIGKILL, resume them until they finish, and compare the end with that of an undisturbed run.

Everything is imported once; each training runs in a forked child. Modes:

* ``time``: at a random moment of the run: training, validating or writing.
* ``call``: at the n-th write, fsync or rename of a checkpoint, its manifest or its pointer, before or after it.
* ``strace``: the same by the system: ``strace -e inject`` kills at the n-th call of a kind; needs ``strace``.

Usage: ``python tests/faults/kill_runs.py --count 100 --mode time [--data coco]``
"""

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

TESTS = Path(__file__).parents[1]
sys.path[:0] = [str(TESTS), str(TESTS / 'engine')]

import torch  # noqa: E402
from mmengine.evaluator import BaseMetric  # noqa: E402
from mmengine.registry import DATASETS, METRICS  # noqa: E402
from tiny_coco import make_tiny_coco, write_user_config  # noqa: E402
from toy_runner import RECIPE_HOOKS, ToyDataset, ToyModel, toy_runner  # noqa: E402

from mmyolo_ext.apis import load_config  # noqa: E402
from mmyolo_ext.checkpoint import writing  # noqa: E402
from mmyolo_ext.engine.runner import Runner  # noqa: E402

CALLS = ('write', 'fsync', 'replace')
SYSTEM_CALLS = ('fsync', 'rename', 'pwrite64', 'write', 'unlink')
STATES = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers')


@DATASETS.register_module()
class FaultsToys(ToyDataset):
    """The toys' vectors, drawn by the generators that SeededDataset seeds."""

    def full_init(self) -> None:
        """As MMEngine asks of a data set that it builds."""

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {'x': torch.randn(4) * 0.5}


@METRICS.register_module()
class MeanOutput(BaseMetric):
    """The mean of the model's outputs: changes with the weights."""

    def process(self, data_batch: Any, data_samples: Any) -> None:
        self.results.append(float(data_samples[0].mean()))

    def compute_metrics(self, results: list) -> dict[str, float]:
        return {'mean': sum(results) / len(results)}


def toys(work_dir: Path, workers: int = 0) -> Runner:
    """Four epochs of five iterations, a checkpoint every three, a validation after each epoch."""
    return toy_runner(
        work_dir,
        model=ToyModel(dropout=0.3),
        hooks=RECIPE_HOOKS[:3],
        resume=True,
        train_dataloader={
            'dataset': {'type': 'mmyolo_ext.SeededDataset', 'dataset': {'type': 'FaultsToys'}},
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'batch_size': 2,
            'num_workers': workers,
            'persistent_workers': workers > 0,
            'collate_fn': {'type': 'default_collate'},
        },
        val_cfg={},
        val_dataloader={
            'dataset': ToyDataset(6),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 2,
            'collate_fn': {'type': 'default_collate'},
        },
        val_evaluator={'type': 'MeanOutput'},
        default_hooks={
            'checkpoint': {
                'type': 'CheckpointHook',
                'interval': 3,
                'by_epoch': False,
                'max_keep_ckpts': 2,
                'save_best': 'mean',
                'rule': 'greater',
            }
        },
    )


def coco(work_dir: Path, data: Path, workers: int = 0) -> Runner:
    """The real recipe on a few images: three epochs of three iterations."""
    config = work_dir.parent / f'{work_dir.name}.py'
    write_user_config(config, data)
    options = {
        'max_epochs': 3,
        'default_hooks.accumulate.nominal_batch_size': 4,
        'default_hooks.close_mosaic.num_last_epochs': 1,
        'train_dataloader.num_workers': workers,
        'train_dataloader.persistent_workers': workers > 0,
    }
    cfg = load_config(config, options)
    cfg.work_dir, cfg.resume, cfg.experiment_name = str(work_dir), True, work_dir.name
    return Runner.from_cfg(cfg)


class Run:
    """A training in a forked child, its output in a log.

    Args:
        build: Makes the runner for a work dir.
        work_dir: Of the run.
        before: Called in the child before it starts.
        tracer: Called with the id of the child, which waits until it returns.
    """

    def __init__(
        self,
        build: Callable[[Path], Runner],
        work_dir: Path,
        before: Callable[[], None] | None = None,
        tracer: Callable[[int], Any] | None = None,
    ) -> None:
        self.log = work_dir.with_suffix('.log')
        self.started = time.monotonic()
        ready, go = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(go)
            os.read(ready, 1)  # until the parent closes its end
            self._train(build, work_dir, before)
        os.close(ready)
        self.tracer = tracer(self.pid) if tracer else None
        os.close(go)

    def _train(self, build: Callable[[Path], Runner], work_dir: Path, before: Callable[[], None] | None) -> None:
        os.setsid()
        handle = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        code = 1
        try:
            if before:
                before()
            build(work_dir).train()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def wait(self, seconds: float | None = None) -> int | None:
        """Wait for the end, or kill the process after some seconds; its exit code, None where it was killed."""
        if seconds is not None:
            while time.monotonic() - self.started < seconds:
                pid, status = os.waitpid(self.pid, os.WNOHANG)
                if pid:
                    return self._ended(status)
                time.sleep(0.002)
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        return self._ended(status)

    def _ended(self, status: int) -> int | None:
        if self.tracer is not None:
            self.tracer.wait()
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) != signal.SIGKILL:
                raise AssertionError(f'the run ended by signal {os.WTERMSIG(status)}, see {self.log}')
            return None
        return os.WEXITSTATUS(status)


def die_at_call(kind: str, number: int, after: bool) -> Callable[[], None]:
    """Let a child kill itself at the n-th call of a kind that writes a checkpoint."""

    def install() -> None:
        left = [number]

        def wrap(real: Callable) -> Callable:
            def call(*args, **kwargs):
                left[0] -= 1
                if left[0] == 0 and not after:
                    if kind == 'write':
                        path, content = args[:2]
                        unfinished = path.with_name(f'.{path.name}{writing.UNFINISHED}')
                        unfinished.write_bytes(content[: len(content) // 2])
                    os.kill(os.getpid(), signal.SIGKILL)
                result = real(*args, **kwargs)
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return result

            return call

        if kind == 'write':
            writing._write_file = wrap(writing._write_file)
        else:
            setattr(os, kind, wrap(getattr(os, kind)))

    return install


def strace(call: str, number: int) -> Callable[[int], subprocess.Popen]:
    """Attach strace to a process, to kill it at the n-th system call of a kind."""

    def attach(pid: int) -> subprocess.Popen:
        command = ['strace', '-qq', '-o', os.devnull, '-p', str(pid), '-e', f'trace={call}']
        tracer = subprocess.Popen([*command, '-e', f'inject={call}:signal=KILL:when={number}'])
        while f'TracerPid:\t{0}' in Path(f'/proc/{pid}/status').read_text():
            if tracer.poll() is not None:
                raise RuntimeError('strace could not attach: is ptrace allowed here?')
        return tracer

    return attach


def end_of(work_dir: Path) -> dict[str, Any]:
    """What two runs must have in common: states of the last checkpoint, history of the loss, and the best one."""
    folder = writing.CheckpointFolder(work_dir)
    content = torch.load(folder.newest())
    best = [name for name, facts in folder.entries.items() if facts['kind'] == 'best']
    left = sorted(path.name for path in work_dir.iterdir() if path.is_file() and not path.name.startswith('.'))
    return {
        **{key: content[key] for key in STATES},
        'loss': content['message_hub']['log_scalars']['train/loss']['log'],
        'position': (content['meta']['epoch'], content['meta']['iter']),
        'best': {name: torch.load(work_dir / name)['state_dict'] for name in best},
        'files': [name for name in left if name.endswith(('.pth', writing.UNFINISHED))],
    }


def difference(first: Any, second: Any, place: str = '') -> str | None:
    """Return the first place where two nested results differ, to the bit."""
    if isinstance(first, torch.Tensor):
        return None if isinstance(second, torch.Tensor) and torch.equal(first, second) else place
    if isinstance(first, dict):
        if list(first) != list(second):
            return f'{place} {sorted(first)} {sorted(second)}'
        pairs = [(key, first[key], second[key]) for key in first]
    elif isinstance(first, (list, tuple)) and len(first) == len(second):
        pairs = [(index, one, other) for index, (one, other) in enumerate(zip(first, second, strict=True))]
    else:
        return None if first == second else f'{place} {first!r} {second!r}'
    return next((found for key, one, other in pairs if (found := difference(one, other, f'{place}.{key}'))), None)


def kill_and_resume(
    build: Callable[[Path], Runner], work_dir: Path, expected: dict, length: float, mode: str, draw: random.Random
) -> int:
    """Run, kill, resume, and kill again half of the times, until the run finishes; the number of kills.

    Raises:
        AssertionError: A resumed run failed, or ended differently.
    """
    kills, events = 0, []
    while True:
        seconds = before = tracer = None
        if kills == 0 or draw.random() < 0.5:
            if mode == 'time':
                seconds = draw.uniform(0, length)
                events.append(f'{seconds:.2f} s')
            elif mode == 'call':
                kind, number, after = draw.choice(CALLS), draw.randint(1, 60), draw.random() < 0.5
                before = die_at_call(kind, number, after)
                events.append(f'{kind} {number}{" after" if after else ""}')
            else:
                kind = draw.choice(SYSTEM_CALLS)
                number = draw.randint(1, {'fsync': 60, 'rename': 30, 'unlink': 8}.get(kind, 800))
                tracer = strace(kind, number)
                events.append(f'{kind} {number}')
        run = Run(build, work_dir, before, tracer)
        code = run.wait(seconds)
        if code is None:
            kills += 1
            continue
        assert code == 0, f'a resumed run failed after {events}:\n{run.log.read_text()[-4000:]}'
        if kills:
            break
        shutil.rmtree(work_dir)  # it had finished before the moment came
    found = difference(expected, end_of(work_dir))
    assert found is None, f'after {events} the end differs at {found}, see {run.log}'
    return kills


def builder(data: str, folder: Path, workers: int) -> Callable[[Path], Runner]:
    """Return what makes the runner of a run."""
    if data == 'toys':
        return lambda work_dir: toys(work_dir, workers)
    images = make_tiny_coco(folder / 'data')
    return lambda work_dir: coco(work_dir, images, workers)


def attack(count: int, mode: str, data: str, folder: Path, seed: int = 0, workers: int = 0) -> dict[str, float]:
    """Kill ``count`` runs, each at least once, and compare each with the undisturbed one.

    Returns:
        Numbers of runs and kills, and the seconds of an undisturbed run.
    """
    build = builder(data, folder, workers)
    straight = Run(build, folder / 'straight')
    assert straight.wait() == 0, straight.log.read_text()[-4000:]
    length = time.monotonic() - straight.started
    expected = end_of(folder / 'straight')
    draw, kills = random.Random(seed), 0
    for number in range(count):
        kills += kill_and_resume(build, folder / f'run_{number}', expected, length, mode, draw)
        shutil.rmtree(folder / f'run_{number}')
        print(f'{number + 1} of {count} runs finished alike after {kills} kills', flush=True)
    return {'runs': count, 'kills': kills, 'seconds': length}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--count', type=int, default=4, help='runs')
    parser.add_argument('--mode', choices=('time', 'call', 'strace'), default='time')
    parser.add_argument('--data', choices=('toys', 'coco'), default='toys')
    parser.add_argument('--workers', type=int, default=0, help='of the training loader')
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(attack(args.count, args.mode, args.data, Path(folder), args.seed, args.workers))


if __name__ == '__main__':
    main()
