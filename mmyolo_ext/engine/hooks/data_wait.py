"""Warn when a training waits for its data, and say what would help."""

import os
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from mmengine.dist import get_world_size
from mmengine.hooks import Hook
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from mmyolo_ext.registry import HOOKS

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
