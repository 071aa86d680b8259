"""Say what a checkpoint gave to the model."""

from collections.abc import Iterable, Mapping
from typing import Any

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner
from torch import nn

from mmyolo_ext.compat.fit_checkpoint import fit
from mmyolo_ext.registry import HOOKS

SHOWN = 3


@HOOKS.register_module()
class LoadReportHook(Hook):
    """Logs how many tensors of a checkpoint match the model's by name and shape, and stops where that cannot work.

    MMEngine loads what fits and warns about the rest, so a test with the wrong checkpoint reports a poor mAP. Here a
    checkpoint that gives nothing is an error always; one that leaves anything out is an error when testing and
    resuming, and allowed when training starts from it (another number of classes, for one).

    Raises:
        ValueError: As said, with examples of what is missing and of what has another shape.
    """

    priority = 'HIGHEST'

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Fit what can be fitted, see :func:`fit`; then report."""
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        starts = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        frozen = {name: parameter for name, parameter in model.named_parameters() if not parameter.requires_grad}
        anew = _of_another_shape(frozen, checkpoint.get('state_dict', checkpoint))
        report, notes = fit(model, checkpoint, start_anew=starts)
        if not report.matched or not starts and (report.missing or report.reshaped):
            raise ValueError(f'the checkpoint does not fit the model: {report}. Was it trained with this config?')
        anew |= frozen.keys() & set(report.missing)
        if anew and starts:
            notes.append(f'{len(anew)} frozen tensors are not from it and keep their random start ({_some(anew)})')
        for note in notes:
            runner.logger.warning(f'Checkpoint: {note}.')
        runner.logger.info(f'Checkpoint: {report}.' + ('' if report.complete else f'\n{report.full_table()}'))

    def before_train(self, runner: Runner) -> None:
        """Warn of parts that are frozen by name where no checkpoint gave them anything."""
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if getattr(model, 'frozen_parts', ()) and not (runner._load_from or runner._resume):
            runner.logger.warning(
                f'The parts {model.frozen_parts} are frozen and load_from names no weights: unless init_cfg loads '
                'them, they keep their random start.'
            )


def _of_another_shape(parameters: Mapping[str, nn.Parameter], given: Mapping[str, Any]) -> set[str]:
    """Names of parameters that a checkpoint has otherwise, such as outputs for other classes."""
    return {
        name
        for name, parameter in parameters.items()
        if name in given and getattr(given[name], 'shape', None) != parameter.shape
    }


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ', '.join(names[:SHOWN]) + (', ...' if len(names) > SHOWN else '')
