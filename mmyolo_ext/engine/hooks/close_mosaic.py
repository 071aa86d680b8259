"""End a training on plain pictures."""

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class CloseMosaicHook(Hook):
    """Switches off the transforms that mix images for the last epochs.

    Whether the mixing is off follows from the number of the epoch, so a resumed training needs no memory of it.

    Args:
        num_last_epochs: Epochs without mixing; 0 never switches. With as many as the training has, none mixes.
    """

    priority = 'VERY_HIGH'

    def __init__(self, num_last_epochs: int = 10) -> None:
        if num_last_epochs < 0:
            raise ValueError(f'num_last_epochs must be at least 0, got {num_last_epochs}')
        self.num_last_epochs = num_last_epochs

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        if self.num_last_epochs and not hasattr(dataset, 'close_mosaic'):
            raise ValueError(
                f'the training dataset {type(dataset).__name__} has no close_mosaic: wrap it in '
                "dict(type='mmyolo_ext.SeededDataset', dataset=...), or set num_last_epochs=0"
            )

    def before_train_epoch(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        last = runner.epoch >= runner.max_epochs - self.num_last_epochs
        if self.num_last_epochs and last and not dataset.mosaic_closed:
            dataset.close_mosaic()
            runner.logger.info(f'Epoch {runner.epoch + 1}: mixing of images is closed until the end.')
