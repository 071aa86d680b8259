"""Tell the data, the sampler and the process which epoch it is, so that all that is random follows from it."""

import random

import numpy as np
import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class SampleSeedHook(Hook):
    """Seeds each epoch from (seed, epoch), so that an epoch reached by resuming is the epoch reached straight.

    Three things are told: the dataset, whose samples then depend on (seed, epoch, index); the sampler, whose order
    must use the seed of the checkpoint when the config leaves it open; and the generators of this process (with its
    rank), for layers that draw.
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
        words = np.random.SeedSequence((runner.seed, runner.epoch, runner.rank)).generate_state(3)
        random.seed(int(words[0]))
        np.random.seed(words[1])
        torch.manual_seed(int(words[2]))
