"""End a training on plain pictures."""

from collections.abc import Iterator

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
        # the data set refuses to close what is not there, but only when the last epochs begin
        steps = list(_wrapper_steps(dataset))
        if self.num_last_epochs and steps and not any(_mixes(step) for step in steps):
            raise ValueError(
                f'no transform mixes images, so there is nothing to close: got {[type(s).__name__ for s in steps]}; '
                'set num_last_epochs=0, or put Mosaic into the pipeline'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        last = runner.epoch >= runner.max_epochs - self.num_last_epochs
        if self.num_last_epochs and last and not dataset.mosaic_closed:
            dataset.close_mosaic()
            runner.logger.info(f'Epoch {runner.epoch + 1}: mixing of images is closed until the end.')


def _wrapper_steps(dataset: object) -> Iterator[object]:
    """The transforms of every wrapper that runs some itself (``MultiImageMixDataset``), at any depth."""
    if isinstance(getattr(dataset, 'pipeline', None), list):
        yield from dataset.pipeline
    for part in [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', []):
        yield from _wrapper_steps(part)


def _mixes(transform: object) -> bool:
    return getattr(transform, 'mixes_images', hasattr(transform, 'get_indexes'))
