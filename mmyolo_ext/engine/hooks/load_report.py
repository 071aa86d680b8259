"""Say what a checkpoint gave to the model."""

from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import BaseLoop, Runner

from mmyolo_ext.compat.load_report import compare
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
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        given = checkpoint.get('state_dict', checkpoint)
        given = {key.removeprefix('module.'): value for key, value in given.items()}
        wanted = {k: v for k, v in model.state_dict().items() if not k.endswith('num_batches_tracked')}
        fits, text = compare(wanted, given)
        training = isinstance(runner._train_loop, BaseLoop)
        if fits == 0 or fits < len(wanted) and (runner._resume or not training):
            raise ValueError(f'the checkpoint does not fit the model: {text}. Was it trained with this config?')
        runner.logger.info(f'Checkpoint: {text}.')
