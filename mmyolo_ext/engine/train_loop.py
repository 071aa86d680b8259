"""MMEngine's training loops, able to start and stop between any two iterations."""

import copy
from collections.abc import Iterator
from itertools import islice
from typing import Any

from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch import nn
from torch.utils.data import DataLoader

from mmyolo_ext.registry import LOOPS


class StepBoundary:
    """The state of the loop and of the schedules after the last optimizer step whose hooks have all run.

    Gradients that have been accumulated since then are lost when a run ends, so a checkpoint must hold this state.
    Parameters, optimizer and EMA change only with steps; the schedules change with every iteration and are kept here.

    Args:
        runner: The runner; its loop must be built.
    """

    def __init__(self, runner) -> None:
        self.position = (runner.epoch, runner.iter)
        # the wrapper's own settings come after those of the optimizer: schedules move them alike
        groups = getattr(runner.optim_wrapper, 'param_groups', [])
        self.values = [
            {key: value for key, value in group.items() if isinstance(value, (int, float, tuple))} for group in groups
        ]
        self.schedules = [copy.copy(scheduler.state_dict()) for scheduler in runner.param_schedulers or ()]


@LOOPS.register_module()
class EpochTrainLoop(EpochBasedTrainLoop):
    """MMEngine's ``EpochBasedTrainLoop`` that can start inside an epoch and resumes with the validation that was due.

    A run that was stopped inside an epoch skips the batches that it had used in the batch sampler, so nothing is
    loaded for them. The hooks around the epoch run as usual. MMEngine saves an epoch's checkpoint before it validates,
    so a run that resumes at the end of an epoch runs the validation that was due; at worst a validation is repeated.

    Attributes:
        boundary: State of the last optimizer step, of which a checkpoint can be saved; None before the first.
    """

    boundary: StepBoundary | None = None

    def run(self) -> nn.Module:
        """Train until ``max_epochs``, or until a hook sets ``stop_training``."""
        with self.runner.stopper.watch(self.runner):
            self.runner.call_hook('before_train')
            self.boundary = StepBoundary(self.runner)
            if self.runner.resumed and self._epoch and self._iter == self._epoch * len(self.dataloader):
                self._validate_if_due()
            while self._epoch < self._max_epochs and not self.stop_training:
                self.run_epoch()
                self._validate_if_due()
            self.runner.call_hook('after_train')
        return self.runner.model

    def run_epoch(self) -> None:
        """Train on the batches of this epoch that are left."""
        done = self._iter - self._epoch * len(self.dataloader)
        self.runner.call_hook('before_train_epoch')
        self.runner.model.train()
        batches = _batches_after(self.dataloader, done)
        for index, batch in enumerate(batches, done):
            self.run_iter(index, batch)
        _join_feeders(batches)
        self.runner.call_hook('after_train_epoch')
        self._epoch += 1
        if is_step_boundary(self.runner):
            self.boundary = StepBoundary(self.runner)

    def run_iter(self, idx: int, data_batch: Any) -> None:
        """Train on one batch; then stop if a signal has arrived."""
        super().run_iter(idx, data_batch)
        _end_iteration(self)

    def _validate_if_due(self) -> None:
        self._decide_current_val_interval()
        due = self._epoch % self.val_interval == 0 or self._epoch == self._max_epochs
        if self.runner.val_loop is not None and self._epoch >= self.val_begin and due:
            self.runner.val_loop.run()


@LOOPS.register_module()
class IterTrainLoop(IterBasedTrainLoop):
    """MMEngine's ``IterBasedTrainLoop`` that can stop between any two iterations; attributes as above."""

    boundary: StepBoundary | None = None

    def run(self) -> nn.Module:
        """Train until ``max_iters``, or until a hook sets ``stop_training``."""
        with self.runner.stopper.watch(self.runner):
            self.boundary = StepBoundary(self.runner)
            return super().run()

    def run_iter(self, data_batch: Any) -> None:
        """Train on one batch; then stop if a signal has arrived."""
        super().run_iter(data_batch)
        _end_iteration(self)


def is_step_boundary(runner) -> bool:
    """Return whether there are no accumulated gradients, so that a checkpoint loses nothing."""
    return runner.optim_wrapper.should_update()


class RemainingBatches:
    """The batches of a sampler without its first ``done``, once; all of them from the second pass on.

    Args:
        sampler: A batch sampler, or a sampler of indices where the loader makes no batches.
        done: Batches that were used before.
    """

    def __init__(self, sampler, done: int) -> None:
        self._sampler = sampler
        self._done = done

    def __iter__(self) -> Iterator:
        # the body runs with the first batch: loaders with workers create one iterator that they never use
        done, self._done = self._done, 0
        yield from islice(iter(self._sampler), done, None)

    def __len__(self) -> int:
        """Return the length of a whole epoch, on which schedules and hooks rely."""
        return len(self._sampler)

    def __getattr__(self, name: str) -> Any:
        if name.startswith('__') or name == '_sampler':
            raise AttributeError(name)
        return getattr(self._sampler, name)


def _batches_after(loader: DataLoader, done: int) -> Iterator:
    if done:
        name = 'sampler' if loader.batch_sampler is None else 'batch_sampler'
        # DataLoader does not allow assignment; the iterator, which persistent workers keep, reads them at its start
        loader.__dict__[name] = RemainingBatches(getattr(loader, name), done)
    return iter(loader)


def _join_feeders(batches: Iterator) -> None:
    """Wait for the threads that fed workers which have ended: a process forked meanwhile may hang in CPython 3.11."""
    if not getattr(batches, '_persistent_workers', True):
        for queue in getattr(batches, '_index_queues', ()):
            queue._thread.join(timeout=5)


def _end_iteration(loop: EpochTrainLoop | IterTrainLoop) -> None:
    if is_step_boundary(loop.runner):
        loop.boundary = StepBoundary(loop.runner)
    loop.runner.stopper.check(loop.runner)
