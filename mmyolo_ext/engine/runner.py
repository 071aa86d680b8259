"""The runner of every training and test: MMEngine's, with the guarantees that MMEngine does not give."""

import copy

from mmengine.runner import BaseLoop
from mmengine.runner import Runner as MMEngineRunner
from torch import nn

from mmyolo_ext.engine.prepare_model import forbid_changes, prepare_model
from mmyolo_ext.registry import RUNNERS

# parts of MMEngine that have a counterpart here, by the names that configs give them
OWN_LOOPS = {'EpochBasedTrainLoop': 'mmyolo_ext.EpochTrainLoop', 'IterBasedTrainLoop': 'mmyolo_ext.IterTrainLoop'}


@RUNNERS.register_module()
class Runner(MMEngineRunner):
    """MMEngine's ``Runner``; ``runner_type = 'mmyolo_ext.Runner'`` selects it in a config.

    Attributes:
        resumed: Whether this run goes on from a checkpoint.
        step_guard: Checks gradients before each optimizer step; None outside of training.
        stopper: Ends the training on a signal, on all ranks alike; None outside of training.
    """

    resumed = False
    step_guard = None
    stopper = None

    def wrap_model(self, model_wrapper_cfg: dict | None, model: nn.Module) -> nn.Module:
        """Wrap the model for several processes; nothing touches its parameters afterwards."""
        wrapped = super().wrap_model(model_wrapper_cfg, prepare_model(model, self.cfg))
        forbid_changes(wrapped)
        return wrapped

    def register_hooks(self, default_hooks: dict | None = None, custom_hooks: list | None = None) -> None:
        """Register the hooks of the config, and those that its other keys ask for."""
        super().register_hooks(default_hooks, custom_hooks)
        compiled = self.cfg.get('compile_parts')
        if compiled is not None:
            backend = compiled.get('backend', 'inductor')
            self.register_hook({'type': 'mmyolo_ext.EagerEvaluationHook', 'backend': backend})

    def build_train_loop(self, loop: BaseLoop | dict) -> BaseLoop:
        """Build the training loop; ours in place of MMEngine's, see :mod:`.train_loop`."""
        if isinstance(loop, dict):
            loop = copy.deepcopy(loop)
            if 'by_epoch' in loop and 'type' not in loop:
                loop['type'] = 'EpochBasedTrainLoop' if loop.pop('by_epoch') else 'IterBasedTrainLoop'
            loop['type'] = OWN_LOOPS.get(_plain_name(loop.get('type')), loop.get('type'))
        return super().build_train_loop(loop)

    def resume(self, filename: str, *args, **kwargs) -> None:
        """Take over the state of a checkpoint."""
        super().resume(filename, *args, **kwargs)
        self.resumed = True

    def save_emergency(self, reason: str) -> str | None:
        """Save the state after the last optimizer step, before the training ends.

        Args:
            reason: Why the training ends, for the log.

        Returns:
            The path of the checkpoint that holds this state, or None where it could not be saved.
        """
        self.logger.warning(f'No checkpoint was saved: {reason}')
        return None


def _plain_name(kind: object) -> object:
    """Return the name of a type of MMEngine that a config gives by its class or with its scope."""
    if isinstance(kind, type) and kind.__module__.startswith('mmengine.'):
        return kind.__name__
    return kind.removeprefix('mmengine.') if isinstance(kind, str) else kind
