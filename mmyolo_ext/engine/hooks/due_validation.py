"""Make up for the validation that an interruption took away."""

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class DueValidationHook(Hook):
    """A training that resumes where a validation is due makes it before it goes on.

    MMEngine saves the checkpoint of an epoch, validates it, and goes on from the next epoch when it resumes. So what
    was stopped between the two never gets its score, and if that was the last epoch, or the best one, no best
    checkpoint either. Whether the validation was made is nowhere written: at worst it is made twice, with one result.
    Only for training by epochs.
    """

    priority = 'LOWEST'  # the hooks that save the best checkpoint have found out where

    def before_train(self, runner: Runner) -> None:
        if self._is_due(runner):
            runner.logger.info(f'resumed after epoch {runner.epoch}: its validation, which may not have been made')
            runner.val_loop.run()

    def _is_due(self, runner: Runner) -> bool:
        loop = runner.train_loop
        if not (isinstance(loop, EpochBasedTrainLoop) and runner._resume and runner.epoch and runner.val_loop):
            return False
        loop._decide_current_val_interval()  # as the loop does before it asks the same
        last = runner.epoch == loop.max_epochs
        return runner.epoch >= loop.val_begin and (runner.epoch % loop.val_interval == 0 or last)
