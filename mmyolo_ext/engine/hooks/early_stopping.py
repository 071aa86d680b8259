"""Stop a training that no longer improves, also across resuming."""

from mmengine.hooks import EarlyStoppingHook as MMEngineEarlyStoppingHook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS

STATE = 'early_stopping'


@HOOKS.register_module()
class EarlyStoppingHook(MMEngineEarlyStoppingHook):
    """MMEngine's ``EarlyStoppingHook`` whose best score and count of validations without improvement are resumed.

    A checkpoint is saved before the validation of its epoch, so it holds the state before that validation, which a
    resumed run repeats.

    Args:
        *args: As MMEngine's, which include ``monitor``, ``rule`` and ``patience``.
        **kwargs: As MMEngine's.
    """

    def before_save_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = {'best_score': float(self.best_score), 'wait_count': int(self.wait_count)}
        checkpoint.setdefault(STATE, {})[self.monitor] = state

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        state = (checkpoint.get(STATE) or {}).get(self.monitor)
        if runner._resume and state:
            self.best_score, self.wait_count = float(state['best_score']), int(state['wait_count'])
