"""Run validation and tests as they are where the training is compiled."""

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner

from mmyolo_ext.engine.prepare_model import check_compiler
from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class EagerEvaluationHook(Hook):
    """Suspends ``torch.compile`` while a run validates or tests, and checks its compiler before the first step.

    Images of validation and tests have many sizes, and each would be compiled anew. :class:`mmyolo_ext.Runner` adds
    the hook where the config has ``compile_parts``.

    Args:
        backend: Of ``torch.compile``.
    """

    def __init__(self, backend: str = 'inductor') -> None:
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if self.backend == 'inductor':
            check_compiler(next(model.parameters()).device.type)
        runner.logger.info(f'torch.compile ({self.backend}) compiles parts of the model: the first steps take long.')

    def before_val(self, runner: Runner) -> None:
        _set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        _set_stance('default')

    def before_test(self, runner: Runner) -> None:
        _set_stance('force_eager')

    def after_test(self, runner: Runner) -> None:
        _set_stance('default')


def _set_stance(stance: str) -> None:
    if hasattr(torch.compiler, 'set_stance'):  # since PyTorch 2.6; before, evaluation is compiled too
        torch.compiler.set_stance(stance)
