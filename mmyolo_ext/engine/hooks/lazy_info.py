"""Fetch the losses from the device when they are logged, not after every step."""

from collections.abc import Mapping
from typing import Any

import torch
from mmengine.dist import all_reduce, get_world_size
from mmengine.hooks import RuntimeInfoHook
from mmengine.runner import Runner
from torch import Tensor

from mmyolo_ext.engine.hooks.log_lines import is_logged
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
