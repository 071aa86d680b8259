"""Say in every line of the log how fast the training is, how long it waits for data, and how much memory it holds."""

import os
from collections import deque
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.engine.hooks.log_lines import is_logged
from mmyolo_ext.registry import HOOKS

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
