"""Time a training step, and how much of it is not the network.

The whole step (a batch of uint8 images in memory, preprocessing, YOLOv5's losses, backward, optimizer, EMA,
schedules, hooks) against the bare one (forward, backward and optimizer step on tensors), alternating::

    OMP_NUM_THREADS=2 python benchmarks/step.py [--device cuda] [--models n s] [--sizes 320 640]

A case is named by model, side, batch, precision and layout. Its time is that of the whole step; ``bare`` is the time
of the bare step, ``ratio`` their quotient in each pair, ``parts_ms`` the time of each other part. ``--compile`` adds
cases with torch.compile.
"""

import argparse
import contextlib
import itertools
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from loss import truth
from machine import report
from mmengine.config import Config
from torch.utils.data import Dataset
from training import LEAST_REPEATS, alternate, choose_device

from mmyolo_ext.apis import load_config
from mmyolo_ext.registry import DATASETS, FUNCTIONS

CONFIGS = Path(__file__).parents[1] / 'configs' / 'yolov5'
MODELS = {name: f'yolov5_{name}_640_coco.py' for name in ('n', 's', 'm', 'l', 'x')}
PRECISIONS, LAYOUTS = ('float32', 'amp', 'bfloat16'), ('channels-last', 'channels-first')
CLASSES, BOXES_PER_IMAGE = 80, 7.5


@DATASETS.register_module()
class ReadyBatch(Dataset):
    """One batch that is in memory, ``steps`` times an epoch: noise images, 7.5 boxes on each."""

    def __init__(self, images: int, size: int, steps: int) -> None:
        generator = torch.Generator().manual_seed(0)
        inputs = torch.randint(0, 256, (images, 3, size, size), generator=generator, dtype=torch.uint8)
        samples = truth(images, size, CLASSES, round(images * BOXES_PER_IMAGE), 'cpu')
        self.batch = {'inputs': inputs, 'data_samples': samples}
        self.length = images * steps

    def set_epoch(self, epoch: int, seed: int) -> None:
        """Nothing is random here."""

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> dict:
        return self.batch


@FUNCTIONS.register_module()
def the_batch(samples: list[dict]) -> dict:
    """Collate what is collated already."""
    return samples[0]


def step_config(model: str, size: int, images: int, steps: int) -> Config:
    """The config of ``model`` with a ready batch in place of its data."""
    cfg = load_config(CONFIGS / MODELS[model], {'input_size': size})
    cfg.train_dataloader = {
        'batch_size': images,
        'num_workers': 0,
        'sampler': {'type': 'DefaultSampler', 'shuffle': False},
        'collate_fn': {'type': 'mmyolo_ext.the_batch'},
        'dataset': {'type': 'mmyolo_ext.ReadyBatch', 'images': images, 'size': size, 'steps': steps},
    }
    for hook in ('close_mosaic', 'curves'):
        cfg.default_hooks.pop(hook)
    cfg.default_hooks.checkpoint = None  # one of MMEngine's own, which only None takes away
    return cfg


def measure_case(cfg: Config, precision: str, layout: str, compiled: str | None, repeats: int) -> dict[str, Any]:
    """Figures of one case."""
    if precision != 'float32':
        cfg.optim_wrapper.type = 'mmyolo_ext.YOLOAmpOptimWrapper'
    if precision == 'bfloat16':  # what amp is on a CPU anyway; on a GPU it is float16
        cfg.optim_wrapper.dtype = 'bfloat16'
    if layout == 'channels-first':
        cfg.memory_format = 'contiguous'
    if compiled:
        cfg.compile_parts = {'backend': compiled}
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        return alternate(cfg, repeats)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=['n'])
    parser.add_argument('--sizes', nargs='+', type=int, default=[320, 640], help='sides of the images, px')
    parser.add_argument('--batches', nargs='+', type=int, default=[16])
    parser.add_argument('--precisions', nargs='+', choices=PRECISIONS, default=['float32', 'amp'])
    parser.add_argument('--layouts', nargs='+', choices=LAYOUTS, default=list(LAYOUTS))
    parser.add_argument('--compile', nargs='?', const='inductor', help='also with torch.compile, by this backend')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--steps', type=int, default=8, help='in a repeat')
    options = parser.parse_args()
    if options.repeats < LEAST_REPEATS or options.steps < 1 or any(size % 32 for size in options.sizes):
        parser.error(f'--repeats must be {LEAST_REPEATS} or more, --steps 1 or more, --sizes multiples of 32')
    return options


def main() -> None:
    options = parse_args()
    choose_device(options.device)
    figures: dict[str, Any] = {}
    axes = (options.models, options.sizes, options.batches, options.precisions, options.layouts)
    compiled = [None, options.compile] if options.compile else [None]
    with contextlib.redirect_stdout(sys.stderr):  # MMEngine logs to the standard output
        for model, size, images, precision, layout, backend in itertools.product(*axes, compiled):
            name = f'YOLOv5{model}, {size} px, batch {images}, {precision}, {layout}'
            name += f', compiled by {backend}' if backend else ''
            cfg = step_config(model, size, images, options.steps)
            figures[name] = measure_case(cfg, precision, layout, backend, options.repeats)
    report('step', figures)


if __name__ == '__main__':
    main()
