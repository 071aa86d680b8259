"""Hooks of the training recipe: seeding, accumulation, closing the mosaic."""

import random

import numpy as np
import torch
from mmengine.hooks import DistSamplerSeedHook, Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmyolo_ext.engine.preflight_data import nested_datasets
from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class AccumulateHook(Hook):
    """Accumulate gradients to about ``nominal_batch_size`` images per optimizer step, for any batch and world size.

    With b images per batch on each of r ranks, a step accumulates k = max(round(nominal / (b r)), 1) iterations. The
    gradient is a sum over images, so the effective learning rate is proportional to b r k; the weight decay is scaled
    by b r k / nominal to match. The learning rate is that of a step of ``nominal`` images: ``--auto-scale-lr`` would
    scale it twice and is an error.

    Args:
        nominal_batch_size: Images per step. The last step of an epoch has the remaining ones.
    """

    priority = 'VERY_HIGH'

    def __init__(self, nominal_batch_size: int = 64) -> None:
        if nominal_batch_size < 1:
            raise ValueError(f'nominal_batch_size must be at least 1, got {nominal_batch_size}')
        self.nominal_batch_size = nominal_batch_size
        self.accumulative_counts = 1

    def before_train(self, runner: Runner) -> None:
        """Scale the weight decay, after a checkpoint was resumed."""
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'AccumulateHook needs an EpochBasedTrainLoop, got {type(runner.train_loop).__name__}: set '
                'train_cfg.by_epoch=True, or remove the hook'
            )
        if not hasattr(runner.optim_wrapper, 'begin_epoch'):
            raise ValueError(
                f'AccumulateHook needs a wrapper that sums gradients, got {type(runner.optim_wrapper).__name__}: set '
                "optim_wrapper.type to 'mmyolo_ext.YOLOOptimWrapper' ('mmyolo_ext.YOLOAmpOptimWrapper' with AMP)"
            )
        if (runner.auto_scale_lr or {}).get('enable'):
            raise ValueError('AccumulateHook adapts the recipe to any batch size: set auto_scale_lr.enable=False')
        batch, ranks, count = batch_size_of(runner.train_dataloader), runner.world_size, self.count(runner)
        self.accumulative_counts = count
        images = batch * ranks * count
        decay_scale = images / self.nominal_batch_size
        for group in runner.optim_wrapper.optimizer.param_groups:
            # the initial value is saved in checkpoints, so that resuming does not scale it twice
            group['weight_decay'] = group.setdefault('initial_weight_decay', group['weight_decay']) * decay_scale
        group = runner.optim_wrapper.optimizer.param_groups[0]
        lr = group.get('initial_lr', group['lr'])
        runner.logger.info(
            f'An optimizer step sums the gradients of {images} images: batch {batch} x {ranks} rank(s) x {count} '
            f'iteration(s). Effective rate: lr {lr:g} on the sum, as {lr * images:g} on the mean over images; weight '
            f'decay {group["initial_weight_decay"]:g} x {decay_scale:g} = {group["weight_decay"]:g}.'
        )

    def before_train_epoch(self, runner: Runner) -> None:
        length = len(runner.train_dataloader)
        done = runner.iter - runner.epoch * length  # of a run that resumes inside the epoch
        runner.optim_wrapper.begin_epoch(self.accumulative_counts, length, done)

    def count(self, runner: Runner) -> int:
        """Return the number of batches per step."""
        images = batch_size_of(runner.train_dataloader) * runner.world_size
        return max(round(self.nominal_batch_size / images), 1)


def batch_size_of(loader: DataLoader) -> int:
    """Return the batch size of one rank, also that of a batch sampler, which needs an attribute ``batch_size``."""
    return loader.batch_size or loader.batch_sampler.batch_size


@HOOKS.register_module()
class CloseMosaicHook(Hook):
    """Switch off the transforms that mix images for the last epochs.

    This depends on the number of the epoch alone, so a resumed training needs no state.

    Args:
        num_last_epochs: Number of epochs without mixing; 0 disables the hook.
    """

    priority = 'VERY_HIGH'

    def __init__(self, num_last_epochs: int = 10) -> None:
        self.num_last_epochs = num_last_epochs

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        if self.num_last_epochs and not hasattr(dataset, 'close_mosaic'):
            raise ValueError(
                f'the training dataset {type(dataset).__name__} has no close_mosaic: wrap it in '
                "dict(type='mmyolo_ext.SeededDataset', dataset=...), or set num_last_epochs=0"
            )
        # the dataset checks this too, but only when the last epochs begin; wrappers have their transforms in a list
        pipelines = [getattr(part, 'pipeline', None) for part in nested_datasets(dataset)]
        steps = [step for pipeline in pipelines if isinstance(pipeline, list) for step in pipeline]
        mixing = [step for step in steps if getattr(step, 'mixes_images', hasattr(step, 'get_indexes'))]
        if self.num_last_epochs and steps and not mixing:
            raise ValueError(
                f'no transform mixes images, so there is nothing to close: got {[type(s).__name__ for s in steps]}; '
                'set num_last_epochs=0, or add Mosaic to the pipeline'
            )

    def before_train_epoch(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        last = runner.epoch >= runner.max_epochs - self.num_last_epochs
        if self.num_last_epochs and last and not dataset.mosaic_closed:
            dataset.close_mosaic()
            runner.logger.info(f'Epoch {runner.epoch + 1}: images are not mixed from here on.')


@HOOKS.register_module()
class SampleSeedHook(DistSamplerSeedHook):
    """Seed everything random from (seed, epoch, iteration), so that a resumed run draws what an unbroken one draws.

    At each epoch it sets epoch and seed of the dataset, whose samples then depend on (seed, epoch, index), and of the
    sampler, as MMEngine's ``DistSamplerSeedHook``. The generators of this process are seeded for each iteration from
    (seed, iteration, rank): a run can resume inside an epoch without stored generator states.
    """

    priority = 'VERY_HIGH'

    def before_train(self, runner: Runner) -> None:
        dataset = runner.train_dataloader.dataset
        if not hasattr(dataset, 'set_epoch'):
            raise ValueError(
                f'the training dataset {type(dataset).__name__} has no set_epoch, so its random transforms would '
                "repeat or depend on the workers: wrap it in dict(type='mmyolo_ext.SeededDataset', dataset=...)"
            )

    def before_train_epoch(self, runner: Runner) -> None:
        loader = runner.train_dataloader
        loader.dataset.set_epoch(runner.epoch, runner.seed)
        sampler = loader.sampler if hasattr(loader.sampler, 'seed') else getattr(loader.batch_sampler, 'sampler', None)
        if hasattr(sampler, 'seed'):
            sampler.seed = runner.seed
        super().before_train_epoch(runner)
        _seed_process(runner.seed, runner.epoch, runner.rank)  # for the sampler and random draws between epochs

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        _seed_process(runner.seed, runner.iter, runner.rank, 1)


def _seed_process(*words: int) -> None:
    drawn = np.random.SeedSequence(words).generate_state(3)
    random.seed(int(drawn[0]))
    np.random.seed(drawn[1])
    # torch.manual_seed would also queue a call, with a stack trace, for each kind of device that is not in use
    torch.default_generator.manual_seed(int(drawn[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(drawn[2]))
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(int(drawn[2]))
