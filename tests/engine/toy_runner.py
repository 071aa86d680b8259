"""A model of three layers and a data set of vectors, small enough to train in a second."""

import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from torch import nn

import mmyolo_ext  # noqa: F401  (supplies mmcv's ops before mmdet is imported)
from mmyolo_ext.engine.runner import Runner

NUM_SAMPLES = 10


class ToyModel(BaseModel):
    """Convolution, norm, linear; the loss is a sum over the samples of a batch."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        self.conv = nn.Conv1d(1, 3, 2)
        self.norm = nn.BatchNorm1d(3)
        self.drop = nn.Dropout(dropout)
        self.linear = nn.Linear(9, 1)
        for parameter in self.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.3

    def forward(self, x, mode='loss'):
        out = self.linear(self.drop(self.norm(self.conv(x[:, None]))).flatten(1))
        return {'loss': ((out - x.sum(1, keepdim=True)) ** 2).sum()} if mode == 'loss' else [out]


class ToyDataset(torch.utils.data.Dataset):
    """Vectors that depend on (seed, epoch, index), as our seeded data set; records its epochs."""

    metainfo = {'classes': ('a', 'b')}

    def __init__(self, length: int = NUM_SAMPLES) -> None:
        self.length = length
        self.epochs: list[tuple[int, int]] = []
        self.closed_at: list[int] = []

    @property
    def mosaic_closed(self) -> bool:
        return bool(self.closed_at)

    def close_mosaic(self) -> None:
        self.closed_at.append(self.epochs[-1][0])

    def set_epoch(self, epoch: int, seed: int) -> None:
        self.epochs.append((epoch, seed))

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        epoch, seed = self.epochs[-1] if self.epochs else (0, 0)
        scale = 0.5 if self.mosaic_closed else 1.0
        generator = torch.Generator().manual_seed(10_000 * seed + 100 * epoch + index)
        return {'x': scale * torch.randn(4, generator=generator)}


def toy_runner(work_dir, model=None, dataset=None, batch_size=2, max_epochs=4, hooks=(), config=None, **settings):
    """A runner with the recipe's optimizer, schedules and hooks on the toys.

    ``settings`` replace arguments of the runner, ``config`` holds the keys that it reads from its config alone.
    """
    epoch_cfg = {'convert_to_iter_based': True, 'warmup_epochs': 1, 'min_warmup_iters': 7}
    cfg = {
        'model': ToyModel() if model is None else model,
        'work_dir': str(work_dir),
        'train_dataloader': {
            'dataset': ToyDataset() if dataset is None else dataset,
            'sampler': {'type': 'DefaultSampler', 'shuffle': True},
            'batch_size': batch_size,
            'collate_fn': {'type': 'default_collate'},
        },
        'train_cfg': {'by_epoch': True, 'max_epochs': max_epochs},
        'optim_wrapper': {
            'type': 'mmyolo_ext.YOLOOptimWrapper',
            'constructor': 'mmyolo_ext.YOLOOptimConstructor',
            'optimizer': {'type': 'SGD', 'lr': 0.01, 'momentum': 0.937, 'nesterov': True, 'weight_decay': 5e-4},
        },
        'param_scheduler': [
            {'type': 'mmyolo_ext.WarmupLinearLR', **epoch_cfg},
            {'type': 'mmyolo_ext.WarmupMomentum', **epoch_cfg},
        ],
        'default_hooks': {'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': -1}},
        'custom_hooks': list(hooks),
        'randomness': {'seed': 0},
        'default_scope': 'mmdet',
        'log_level': 'WARNING',
        'experiment_name': str(work_dir).replace('/', '_'),
        **settings,
    }
    return Runner(**cfg, cfg=Config(config or {}))


RECIPE_HOOKS = (
    {'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': 4},
    {'type': 'mmyolo_ext.StepEMAHook'},
    {'type': 'mmyolo_ext.SampleSeedHook'},
    {'type': 'mmyolo_ext.CloseMosaicHook', 'num_last_epochs': 2},
)
