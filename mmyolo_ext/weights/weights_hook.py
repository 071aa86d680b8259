"""Read the checkpoints of a run safely, and those of other tools too."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS
from mmyolo_ext.weights.reader import install_reader


@HOOKS.register_module()
class WeightsHook(Hook):
    """Before a run, puts :func:`.reader.read_weights` in the place of MMEngine's reading of checkpoint files.

    MMEngine falls back to executing a file that its safe reading refuses; this never does. Our own tools install it by
    themselves; the hook does it under mmdet's.
    """

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        """See there."""
        install_reader()
