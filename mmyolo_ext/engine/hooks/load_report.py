"""Say what a checkpoint gave to the model."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from mmyolo_ext.compat.fit_checkpoint import fit
from mmyolo_ext.registry import HOOKS


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
        report, notes = fit(model, checkpoint, start_anew=starts)
        if not report.matched or not starts and (report.missing or report.reshaped):
            raise ValueError(f'the checkpoint does not fit the model: {report}. Was it trained with this config?')
        if runner._resume and not {'epoch', 'iter'} <= set(checkpoint.get('meta') or ()):
            raise ValueError('the checkpoint holds weights alone: start from it by load_from, it cannot be resumed')
        for note in notes:
            runner.logger.warning(f'Checkpoint: {note}.')
        runner.logger.info(f'Checkpoint: {report}.' + ('' if report.complete else f'\n{report.full_table()}'))
