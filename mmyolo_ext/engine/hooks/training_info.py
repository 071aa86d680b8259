"""Everything that a line of the training log shows."""

import os
import re
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import Hook, LoggerHook, RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor
from torch.utils.data import DataLoader

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class LazyInfoHook(RuntimeInfoHook):
    """MMEngine's ``RuntimeInfoHook``, with the losses noted in one go where a log line is about to show them.

    MMEngine's asks for the value of every loss after every step, and each time the processor waits until a GPU has
    done all it was given. Here they are kept on the device until ``LoggerHook`` writes, the epoch ends or a checkpoint
    is saved; with one process the log holds the same numbers. With several, the log holds the means over ranks, which
    our heads make the losses of the whole batch; MMEngine logs those of rank 0. A hook of yours that reads
    ``train/loss`` from the message hub in between does not yet find those of the last steps: it gets them in
    ``outputs``.

    It also bounds the histories: MMEngine copies the whole history of a number whenever one is added, up to a million,
    and saves it in every checkpoint.

    Args:
        history: Values that are kept of every number that is logged; at least the longest window of the log.
    """

    def __init__(self, history: int = 10_000) -> None:
        if history < 1:
            raise ValueError(f'history must be at least 1, got {history}')
        self.history = history
        self._pending: list[dict[str, Any]] = []

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        self._pending.append({key: _detached(value) for key, value in (outputs or {}).items()})
        if is_logged(runner, batch_idx) or self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._note(runner)

    def after_train_epoch(self, runner: Runner) -> None:
        self._note(runner)

    def before_checkpoint(self, runner: Runner) -> None:
        """Note what is pending on every rank, before rank 0 saves; an event of our ``Runner``."""
        self._note(runner)

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        # of rank 0 alone, which cannot take means over ranks: what is pending there is left out
        if self._pending and get_world_size() == 1:
            self._note(runner)
            checkpoint['message_hub'] = runner.message_hub.state_dict()

    def _note(self, runner: Runner) -> None:
        """Hand over what is pending, in the order of the steps; every rank does so at the same time."""
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


def _detached(value: object) -> object:
    """Without its graph; numbers of half precision as float32, so that all can be stacked."""
    return value.detach().float() if isinstance(value, Tensor) else value


def is_logged(runner: Runner, batch_idx: int) -> bool:
    """Whether ``LoggerHook`` may write a line after this iteration of a training, the last of an epoch included."""
    intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
    done = batch_idx + 1
    return bool(intervals) and (done == len(runner.train_dataloader) or any(done % each == 0 for each in intervals))


@HOOKS.register_module()
class LossShareHook(Hook):
    """Adds ``share_<term>`` for every ``loss_<term>`` of a detector, ours or mmdet's, wherever losses are logged.

    The share is that of the means over the log's window, which stand in the same line: ``loss_cls`` over the sum of
    all terms, from 0 to 1. It is reckoned from numbers the log holds already, where ``LoggerHook`` writes alone, so a
    device is not waited for. A term may be negative, as mmdet's ``SIoULoss`` is by default; its share is so too, and
    the shares' absolute values sum to 1. Where every term is 0, so is every share.
    """

    # after RuntimeInfoHook, which notes the losses, before LoggerHook
    priority = 'NORMAL'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        if not is_logged(runner, batch_idx):
            return
        # not the terms of the history: a model that is loaded may have had others
        terms = [name for name in outputs or () if 'loss' in name and name != 'loss']
        window, hub = runner.log_processor.window_size, runner.message_hub
        means = {name: float(hub.get_scalar(f'train/{name}').mean(window)) for name in terms}
        for name, share in shares(means).items():
            hub.update_scalar(f'train/{share_name(name)}', share)


def shares(terms: Mapping[str, float]) -> dict[str, float]:
    """Each term over the sum of all; of the absolute values, which is the same where none is negative.

    >>> shares({'loss_cls': 1.0, 'loss_bbox': 3.0})
    {'loss_cls': 0.25, 'loss_bbox': 0.75}
    """
    total = sum(abs(value) for value in terms.values())
    return {name: value / total if total else 0.0 for name, value in terms.items()}


def share_name(term: str) -> str:
    """``loss_cls`` -> ``share_cls``, ``d0.loss_cls`` -> ``share_d0.cls``.

    No "loss" is left in it: the log would show the mean over the window, in place of the last value.
    """
    return 'share_' + re.sub('loss_?', '', term).rstrip('_')


STATM = Path('/proc/self/statm')


@HOOKS.register_module()
class ThroughputHook(Hook):
    """Adds to the log line, over the same window as its ``time``:

    * ``images_per_second`` of all processes together;
    * ``data_share``, the part of the time that is spent waiting for the loader, from 0 to 1;
    * ``memory``, MB, on a CPU under Linux: what this process has resident, without its workers. On a GPU MMEngine
      says it: the most that tensors took.

    The times are those of MMEngine's ``IterTimerHook``.
    """

    # after IterTimerHook, which stands before it in the list, and before LoggerHook
    priority = 'NORMAL'

    def before_train(self, runner: Runner) -> None:
        self._images: deque[int] = deque(maxlen=runner.log_processor.window_size)

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        self._images.append(count_images(data_batch))
        hub = runner.message_hub
        if not is_logged(runner, batch_idx) or 'train/time' not in hub.log_scalars:
            return
        seconds, waited = (
            float(hub.get_scalar(f'train/{name}').data[0][-len(self._images) :].sum())
            for name in ('time', 'data_time')
        )
        hub.update_scalar('train/images_per_second', sum(self._images) * runner.world_size / max(seconds, 1e-9))
        hub.update_scalar('train/data_share', waited / max(seconds, 1e-9))
        if not torch.cuda.is_available() and STATM.is_file():
            hub.update_scalar('train/memory', round(resident_mb()))


def count_images(batch: Any) -> int:
    """Pictures in a batch, as a loader gives it: of ``inputs``, a tensor or a list, or several such by name."""
    if isinstance(batch, Mapping):
        inputs = batch['inputs'] if 'inputs' in batch else next(iter(batch.values()))
        return sum(map(len, inputs.values())) if isinstance(inputs, Mapping) else len(inputs)
    return len(batch[0]) if isinstance(batch, tuple) else len(batch)


def resident_mb() -> float:
    """Memory of this process that is in use, in MB (10^6 bytes), as Linux says it."""
    return int(STATM.read_text(encoding='ascii').split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


MOST_WORKERS = 8  # to advise; beyond that a disk, not a core, is mostly what is waited for


@HOOKS.register_module()
class DataWaitHook(Hook):
    """A warning where more than ``share`` of the time over ``window`` iterations is spent waiting for data.

    The first iterations do not count, in which workers start and caches are empty. It is said once, and again no
    sooner than ``again_after`` iterations later.

    Args:
        share: Of the time, from 0 to 1.
        window: Iterations to look at.
        skip: Iterations at the start that do not count.
        again_after: Iterations.
    """

    # after IterTimerHook
    priority = 'LOW'

    def __init__(self, share: float = 0.2, window: int = 50, skip: int = 10, again_after: int = 5000) -> None:
        if not 0 < share < 1 or window < 1 or skip < 0 or again_after < 1:
            raise ValueError(
                'share must be between 0 and 1, window and again_after at least 1, skip at least 0, got '
                f'{share}, {window}, {again_after}, {skip}'
            )
        self.share, self.window, self.skip, self.again_after = share, window, skip, again_after

    def before_train(self, runner: Runner) -> None:
        self._first_check = runner.iter + self.skip + self.window

    def after_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        done = runner.iter + 1
        if done < self._first_check or (done - self._first_check) % self.window:
            return
        histories = runner.message_hub.log_scalars
        if 'train/time' not in histories:
            return
        seconds, waited = (
            float(histories[f'train/{name}'].data[0][-self.window :].sum()) for name in ('time', 'data_time')
        )
        if waited > self.share * seconds:
            self._first_check = done + self.again_after
            advice = '; '.join(advise(read_facts(runner)))
            runner.logger.warning(
                f'Training waited for data {waited / seconds:.0%} of the last {self.window} iterations '
                f'({waited:.1f} of {seconds:.1f} s). What may help: {advice}.'
            )


@dataclass(frozen=True)
class Facts:
    """What the advice depends on.

    Attributes:
        workers: of the loader, of this process.
        persistent: whether they live on from epoch to epoch.
        cores: for each process of the training on this machine.
        threads: with which the network computes; 0 where a GPU does.
        cached: whether decoded pictures are kept; None where nothing is known of it.
    """

    workers: int
    persistent: bool
    cores: int
    threads: int
    cached: bool | None


def read_facts(runner: Runner) -> Facts:
    """The facts of a running training."""
    loader: DataLoader = runner.train_dataloader
    on_cpu = next(runner.model.parameters()).device.type == 'cpu'
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    ranks_here = int(os.environ.get('LOCAL_WORLD_SIZE', get_world_size()))
    return Facts(
        workers=loader.num_workers,
        persistent=bool(loader.persistent_workers),
        cores=max(cores // ranks_here, 1),
        threads=torch.get_num_threads() if on_cpu else 0,
        cached=any(getattr(dataset, 'max_gb', 0) > 0 for dataset in _datasets(loader.dataset)),
    )


def advise(facts: Facts) -> list[str]:
    """What to change, the likeliest first; never empty."""
    wanted = max(min(facts.cores, MOST_WORKERS), 1)
    advice = []
    if facts.workers < wanted:
        now = f'now {facts.workers}, {facts.cores} cores'
        advice.append(f'train_dataloader.num_workers={wanted} train_dataloader.persistent_workers=True ({now})')
    elif not facts.persistent:
        advice.append('train_dataloader.persistent_workers=True, or the workers start anew every epoch')
    if not facts.cached:
        advice.append('keep decoded pictures: mmyolo_ext.CachedDataset with max_gb above 0 around the data set')
    if facts.threads and facts.threads + facts.workers > facts.cores > 1:
        free = max(facts.cores - max(facts.workers, 1), 1)
        if free < facts.threads:
            advice.append(
                f'OMP_NUM_THREADS={free}, for {facts.threads} threads of the network and {facts.workers} workers '
                f'share {facts.cores} cores'
            )
    advice.append(
        'pictures on a faster disk, or stored at the size of training'
        if not facts.cached
        else 'a larger max_gb, if the log says that the cache does not hold all pictures'
    )
    return advice


def _datasets(dataset: object) -> Iterator[object]:
    """A data set and all that it wraps."""
    yield dataset
    for part in [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', []):
        yield from _datasets(part)
