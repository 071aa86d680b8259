"""Test with batch norms folded into the convolutions before them."""

from copy import deepcopy

from mmcv.cnn import fuse_conv_bn
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class FuseHook(Hook):
    """While a test runs, a fused copy takes the model's place: the same figures up to rounding, in less time.

    A copy, for the model may be trained further, and an average of weights is put back into it after the test.
    """

    # after an average of weights has taken its place in the model, before the hook that takes times
    priority = 'LOW'

    def before_test_epoch(self, runner: Runner) -> None:
        self._model = runner.model
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = fuse_conv_bn(revert_sync_batchnorm(deepcopy(model)).eval())

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        runner.model = self._model
