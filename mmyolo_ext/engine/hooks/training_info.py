"""The numbers in a line of the training log, and a warning where the training waits for data."""

import os
import re
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from mmyolo_ext.engine.preflight_data import nested_datasets
from mmyolo_ext.registry import HOOKS

STATM = Path('/proc/self/statm')
WAIT_WINDOW = 50  # iterations over which waiting for data is measured
WAIT_SKIP = 10  # iterations at the start, in which workers start and caches fill
WAIT_PAUSE = 5000  # iterations between two warnings
MAX_WORKERS = 8  # to recommend; with more, the disk is usually the bottleneck, not the CPU


@HOOKS.register_module()
class TrainingInfoHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook`` that logs more and does not wait for the GPU after every step.

    Losses stay on the device until ``LoggerHook`` writes a line, the epoch ends or a checkpoint is saved. With several
    processes the log holds the means over ranks, MMEngine logs those of rank 0. A hook that needs the losses of each
    iteration finds them in ``outputs``; ``train/loss`` in the message hub lags behind.

    Every line of the log also shows, over the same window as its other numbers:

    * ``share_<term>`` for each ``loss_<term>``: the mean of the term over the sum of the absolute means of all terms;
    * ``images_per_second`` of all processes together;
    * ``data_share``: the share of the time spent waiting for the loader, from 0 to 1;
    * ``memory`` in MB, on a CPU under Linux: resident memory of this process without its workers. On a GPU, MMEngine
      logs the peak memory of tensors.

    A warning with advice appears when more than ``max_wait`` of the time is spent waiting for data.

    Args:
        history: Number of values kept of every logged number; at least the longest window of the log. MMEngine copies
            the whole history when a value is added, and saves it in every checkpoint.
        max_wait: Share of the time, from 0 to 1.
    """

    priority = 55  # after IterTimerHook (NORMAL), which measures the times, and before LoggerHook (BELOW_NORMAL)

    def __init__(self, history: int = 10_000, max_wait: float = 0.2) -> None:
        self.history = history
        self.max_wait = max_wait
        self._pending: list[dict[str, Any]] = []

    def before_train(self, runner: Runner) -> None:
        super().before_train(runner)
        self._images: deque[int] = deque(maxlen=runner.log_processor.window_size)
        self._next_check = runner.iter + WAIT_SKIP + WAIT_WINDOW

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        outputs = {key: _detached(value) for key, value in (outputs or {}).items()}
        self._pending.append(outputs)
        self._images.append(count_images(data_batch))
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        done, in_epoch = runner.iter + 1, batch_idx + 1
        ends_epoch = in_epoch == len(runner.train_dataloader)
        is_logged = intervals and (ends_epoch or any(in_epoch % interval == 0 for interval in intervals))
        if is_logged or ends_epoch:
            self._fetch(runner)
        if is_logged:
            self._add_shares(runner, [name for name in outputs if 'loss' in name and name != 'loss'])
            self._add_throughput(runner)
        if done >= self._next_check and (done - self._next_check) % WAIT_WINDOW == 0:
            self._check_wait(runner, done)

    def after_train_epoch(self, runner: Runner) -> None:
        self._fetch(runner)

    def before_checkpoint(self, runner: Runner) -> None:
        """Fetch pending losses on every rank before rank 0 saves; the runner calls it."""
        self._fetch(runner)

    def _fetch(self, runner: Runner) -> None:
        """Move pending losses to the message hub, in the order of the steps. All ranks call this together."""
        tensors = [value for row in self._pending for value in row.values() if isinstance(value, Tensor)]
        values = torch.stack([tensor.reshape(()) for tensor in tensors]) if tensors else torch.empty(0)
        if tensors:
            all_reduce(values, 'mean')
        fetched = iter(values.tolist())
        for row in self._pending:
            for key, value in row.items():
                runner.message_hub.update_scalar(f'train/{key}', next(fetched) if isinstance(value, Tensor) else value)
        self._pending.clear()
        for buffer in runner.message_hub.log_scalars.values():
            buffer.max_length = self.history

    def _add_shares(self, runner: Runner, terms: list[str]) -> None:
        hub, window = runner.message_hub, runner.log_processor.window_size
        means = {name: float(hub.get_scalar(f'train/{name}').mean(window)) for name in terms}
        total = sum(map(abs, means.values()))
        for name, mean in means.items():
            hub.update_scalar(f'train/{share_name(name)}', mean / total if total else 0.0)

    def _add_throughput(self, runner: Runner) -> None:
        seconds, waited = _last_times(runner, len(self._images))
        if seconds:
            hub = runner.message_hub
            hub.update_scalar('train/images_per_second', sum(self._images) * runner.world_size / seconds)
            hub.update_scalar('train/data_share', waited / seconds)
            if not torch.cuda.is_available() and STATM.is_file():
                hub.update_scalar('train/memory', round(resident_mb()))

    def _check_wait(self, runner: Runner, done: int) -> None:
        seconds, waited = _last_times(runner, WAIT_WINDOW)
        if waited > self.max_wait * seconds:
            self._next_check = done + WAIT_PAUSE
            runner.logger.warning(
                f'Training waited for data {waited / seconds:.0%} of the last {WAIT_WINDOW} iterations '
                f'({waited:.1f} of {seconds:.1f} s). What may help: {"; ".join(_advise_on(runner))}.'
            )


def share_name(term: str) -> str:
    """Return the name of a term's share: ``loss_cls`` -> ``share_cls``, ``d0.loss_cls`` -> ``share_d0.cls``.

    The name must not contain "loss", or the log would show its mean over the window.
    """
    return 'share_' + re.sub('loss_?', '', term).rstrip('_')


def _detached(value: Any) -> Any:
    return value.detach().float() if isinstance(value, Tensor) else value


def count_images(batch: Any) -> int:
    """Return the number of images in a batch: of ``inputs``, a tensor or a list, or several of these by name."""
    if isinstance(batch, Mapping):
        inputs = batch['inputs'] if 'inputs' in batch else next(iter(batch.values()))
        return sum(map(len, inputs.values())) if isinstance(inputs, Mapping) else len(inputs)
    return len(batch)


def resident_mb() -> float:
    """Return the resident memory of this process in MB (10^6 bytes); Linux only."""
    return int(STATM.read_text(encoding='ascii').split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


def advise(workers: int, persistent: bool, cores: int, threads: int, cached: bool) -> list[str]:
    """Return what to change so that a training waits less for data, the most effective first; never empty.

    Args:
        workers: Number of workers of the loader of this process.
        persistent: Whether the workers survive the end of an epoch.
        cores: Number of CPU cores for each process of the training on this machine.
        threads: Number of threads that run the network; 0 on a GPU.
        cached: Whether decoded images are cached.
    """
    wanted, free = max(min(cores, MAX_WORKERS), 1), max(cores - max(workers, 1), 1)
    more = (
        f'num_workers={max(wanted, workers)} train_dataloader.persistent_workers=True (now {workers}, {cores} cores)'
    )
    rules = {
        f'train_dataloader.{more}': workers < wanted or not persistent,
        'cache decoded images: wrap the dataset in mmyolo_ext.CachedDataset with max_gb above 0': not cached,
        f'OMP_NUM_THREADS={free}, because {threads} threads of the network and {workers} workers share {cores} '
        'cores': threads + workers > cores > 1 and free < threads,
        'a larger max_gb, if the log reports that the cache does not hold all images': cached,
        'a faster disk, or images resized to the training size': not cached,
    }
    return [advice for advice, applies in rules.items() if applies]


def _advise_on(runner: Runner) -> list[str]:
    loader = runner.train_dataloader
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    on_cpu = next(runner.model.parameters()).device.type == 'cpu'
    return advise(
        loader.num_workers,
        bool(loader.persistent_workers),
        max(cores // int(os.environ.get('LOCAL_WORLD_SIZE', get_world_size())), 1),
        torch.get_num_threads() if on_cpu else 0,
        any(getattr(dataset, 'max_gb', 0) > 0 for dataset in nested_datasets(loader.dataset)),
    )


def _last_times(runner: Runner, count: int) -> tuple[float, float]:
    """Return the seconds of the last iterations and the part of them spent on waiting; zeros without IterTimerHook."""
    scalars = runner.message_hub.log_scalars
    if 'train/time' not in scalars:
        return 0.0, 0.0
    seconds, waited = (float(scalars[f'train/{name}'].data[0][-count:].sum()) for name in ('time', 'data_time'))
    return seconds, waited
