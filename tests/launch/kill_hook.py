"""A hook that kills its own process once, in the middle of a training."""

import os
import signal
from pathlib import Path

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class KillHook(Hook):
    """Kill a rank, or the launcher that started it, after some iterations; never twice.

    Args:
        marker: File that exists after it was done.
        iteration: Completed iterations.
        rank: Rank that is killed.
        launcher: Kill the launcher of this rank instead.
    """

    def __init__(self, marker: str, iteration: int, rank: int, launcher: bool = False) -> None:
        self.marker = Path(marker)
        self.iteration = iteration
        self.rank = rank
        self.launcher = launcher

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.rank == self.rank and runner.iter + 1 == self.iteration and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getppid() if self.launcher else os.getpid(), signal.SIGKILL)
