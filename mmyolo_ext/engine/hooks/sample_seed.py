"""Seed data, sampler and generators from the position in the training."""

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class SampleSeedHook(Hook):
    """Seeds what is random from (seed, epoch, iteration), so that a resumed run draws what an unbroken one draws.

    The dataset, whose samples then depend on (seed, epoch, index), and the sampler, whose order must use the seed of
    the checkpoint where the config leaves it open, are seeded for each epoch. The generators of this process, for
    layers that draw, are seeded for each iteration from (seed, iteration, rank): a run can resume inside an epoch
    without stored states of generators.
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
        _seed_process(runner.seed, runner.epoch, runner.rank)  # for the sampler and for what is drawn between epochs

    def before_train_iter(self, runner: Runner, *args, **kwargs) -> None:
        _seed_process(runner.seed, runner.iter, runner.rank, 1)


def _seed_process(*words: int) -> None:
    drawn = np.random.SeedSequence(words).generate_state(3)
    random.seed(int(drawn[0]))
    np.random.seed(drawn[1])
    # torch.manual_seed also queues a call for each kind of device that is not in use, with a trace of the stack
    torch.default_generator.manual_seed(int(drawn[2]))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(int(drawn[2]))
    elif torch.backends.mps.is_available():
        torch.mps.manual_seed(int(drawn[2]))
