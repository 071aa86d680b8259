"""Accumulate gradients to a nominal number of images."""

from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch.utils.data import DataLoader

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class AccumulateHook(Hook):
    """Makes every optimizer step see about ``nominal_batch_size`` images, whatever the batch and the ranks.

    With b images a batch on each of r ranks it adds up k = max(round(nominal / (b r)), 1) iterations. The gradient is
    a sum over images, so a step of b r k images moves the weights as far as that many images should; the weight decay
    is scaled by b r k / nominal to keep pace. The learning rate is left alone: it belongs to a step of ``nominal``
    images, hence ``--auto-scale-lr`` would scale it twice and is refused.

    Args:
        nominal_batch_size: Images a step should see. The last step of an epoch sees what is left.
    """

    priority = 'VERY_HIGH'

    def __init__(self, nominal_batch_size: int = 64) -> None:
        if nominal_batch_size < 1:
            raise ValueError(f'nominal_batch_size must be at least 1, got {nominal_batch_size}')
        self.nominal_batch_size = nominal_batch_size
        self.accumulative_counts = 1

    def before_train(self, runner: Runner) -> None:
        """Runs after a checkpoint was resumed, so that what it says about the weight decay can be put right."""
        self._check(runner)
        images = batch_size_of(runner.train_dataloader) * runner.world_size
        self.accumulative_counts = self.count(runner)
        decay_scale = images * self.accumulative_counts / self.nominal_batch_size
        for group in runner.optim_wrapper.optimizer.param_groups:
            # kept in the group, hence in the checkpoint, so that resuming does not scale what is scaled already
            group['weight_decay'] = group.setdefault('initial_weight_decay', group['weight_decay']) * decay_scale
        runner.logger.info(self._describe(runner, images, decay_scale))

    def before_train_epoch(self, runner: Runner) -> None:
        length = len(runner.train_dataloader)
        done = runner.iter - runner.epoch * length  # of a run that resumes inside the epoch
        runner.optim_wrapper.begin_epoch(self.accumulative_counts, length, done)

    def count(self, runner: Runner) -> int:
        """Return how many batches make a step."""
        images = batch_size_of(runner.train_dataloader) * runner.world_size
        return max(round(self.nominal_batch_size / images), 1)

    def _check(self, runner: Runner) -> None:
        if not isinstance(runner.train_loop, EpochBasedTrainLoop):
            raise ValueError(
                f'AccumulateHook steps at the end of each epoch and needs an EpochBasedTrainLoop, got '
                f'{type(runner.train_loop).__name__}: set train_cfg.by_epoch=True, or remove the hook'
            )
        if not hasattr(runner.optim_wrapper, 'begin_epoch'):
            raise ValueError(
                f'AccumulateHook needs a wrapper that sums gradients, got {type(runner.optim_wrapper).__name__}: set '
                "optim_wrapper.type to 'mmyolo_ext.YOLOOptimWrapper' ('mmyolo_ext.YOLOAmpOptimWrapper' with AMP)"
            )
        if (runner.auto_scale_lr or {}).get('enable'):
            raise ValueError(
                'auto_scale_lr is enabled, but this recipe fits any batch size already, by summing and accumulating '
                'gradients: set auto_scale_lr.enable=False'
            )

    def _describe(self, runner: Runner, images: int, decay_scale: float) -> str:
        group = runner.optim_wrapper.optimizer.param_groups[0]
        step_images = images * self.accumulative_counts
        lr = group.get('initial_lr', group['lr'])
        return (
            f'An optimizer step sums the gradients of {step_images} images: batch {images // runner.world_size} x '
            f'{runner.world_size} rank(s) x {self.accumulative_counts} iteration(s). Effective rate: lr {lr:g} on the '
            f'sum, as {lr * step_images:g} on the mean over images; weight decay '
            f'{group["initial_weight_decay"]:g} x {decay_scale:g} = {group["weight_decay"]:g}.'
        )


def batch_size_of(loader: DataLoader) -> int:
    """Images a batch on one rank, also where a batch sampler decides it."""
    size = loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None)
    if size is None:
        raise ValueError(
            f'cannot tell the batch size of {type(loader.batch_sampler).__name__}: give it an attribute batch_size'
        )
    return size
