"""Where the log of a training is written."""

from mmengine.hooks import LoggerHook
from mmengine.runner import Runner


def is_logged(runner: Runner, batch_idx: int) -> bool:
    """Whether ``LoggerHook`` may write a line after this iteration of a training, the last of an epoch included."""
    intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
    done = batch_idx + 1
    return bool(intervals) and (done == len(runner.train_dataloader) or any(done % each == 0 for each in intervals))
