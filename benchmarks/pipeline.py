"""Measure the throughput of the training pipeline: mosaic, affine, HSV jitter and flip on BCCD.

One process, one thread, batches of 16 from a loader, the same shuffled epochs. *ram*: decoded images are cached;
*disk*: each JPEG is decoded every time; *steps*: as *ram*, but with mmdet's dataset and in single steps: resize,
mosaic of twice the size, affine.

The time of a sample is reported in milliseconds and in warps, measured before and after each repeat; on a shared
machine the median of these ratios is more robust than a ratio of medians::

    OMP_NUM_THREADS=1 python benchmarks/pipeline.py [--sizes 640 320] [--cases ram disk steps] [--memory 2000]

``--memory`` makes that many more mosaics and reports the resident memory before, after, and at most.
"""

import argparse
import itertools
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import torch
from machine import calibrate, report
from torch.utils.data import DataLoader

from mmyolo_ext.apis import load_config
from mmyolo_ext.datasets import SeededDataset, stack_inputs
from mmyolo_ext.registry import DATASETS

CONFIG = Path(__file__).parents[1] / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'
CASES = ('ram', 'disk', 'steps')
BATCH, LEAST_REPEATS = 16, 5


def training_set(case: str, size: int, data_root: str) -> SeededDataset:
    """Return the training set of the config, with images cached unless they are to be read from disk."""
    cfg = load_config(CONFIG, {'input_size': size, 'data_root': data_root})
    seeded = cfg.train_dataloader.dataset
    images = seeded.dataset
    if case == 'disk':
        images.max_gb = 0
    elif case == 'steps':
        affine, hsv, _, pack = seeded.pop('pipeline')
        moves = {key: affine[key] for key in ('size', 'scale', 'translate')}
        resize = {'type': 'mmdet.Resize', 'scale': (size, size), 'keep_ratio': True}
        images.size = None
        steps = [
            *({'type': 'mmyolo_ext.Mosaic', 'size': size}, {'type': 'mmyolo_ext.RandomAffine', **moves}, hsv),
            *({'type': 'mmdet.RandomFlip', 'prob': 0.5}, {**pack, 'type': 'mmdet.PackDetInputs'}),
        ]
        mix = {'type': 'mmdet.MultiImageMixDataset'}
        seeded.dataset = {**mix, 'dataset': {**mix, 'dataset': images, 'pipeline': [resize]}, 'pipeline': steps}
    dataset = DATASETS.build(seeded)
    dataset.full_init()
    if case != 'disk':
        cached = dataset.dataset.dataset if case == 'ram' else dataset.dataset.dataset.dataset
        for index in range(len(cached)):
            cached[index]
    return dataset


def batches(dataset: SeededDataset) -> Iterator[dict]:
    """Yield batches of one epoch after another."""
    for epoch in itertools.count():
        dataset.set_epoch(epoch, 0)
        order = torch.randperm(len(dataset), generator=torch.Generator().manual_seed(epoch))
        yield from DataLoader(dataset, BATCH, sampler=order.tolist(), collate_fn=stack_inputs, drop_last=True)


def samples_per_second(dataset: SeededDataset, repeats: int, runs: int) -> dict[str, float]:
    """Measure ``repeats`` times ``runs`` batches, after one repeat as warm-up."""
    stream, times, warps, in_warps = batches(dataset), [], [], []
    before = calibrate(5)['warp_ms']
    for repeat in range(repeats + 1):
        start = time.perf_counter()
        for _ in range(runs):
            next(stream)
        sample_ms = (time.perf_counter() - start) * 1e3 / (runs * BATCH)
        after = calibrate(5)['warp_ms']
        if repeat:
            times.append(sample_ms)
            warps.append((before + after) / 2)
            in_warps.append(2 * sample_ms / (before + after))
        before = after
    median = statistics.median(times)
    return {
        'samples_per_second': round(1e3 / median, 1),
        'sample_ms': {'median': round(median, 3), 'min': round(min(times), 3), 'max': round(max(times), 3)},
        'warp_ms': round(statistics.median(warps), 3),
        'warps_per_sample': {
            'median': round(statistics.median(in_warps), 3),
            'min': round(min(in_warps), 3),
            'max': round(max(in_warps), 3),
        },
        'repeats': repeats,
    }


def resident_memory(dataset: SeededDataset, samples: int) -> dict[str, float]:
    """Measure the resident memory, MB, while ``samples`` mosaics are made, after two epochs."""
    stream, rounds = batches(dataset), -(-samples // BATCH)
    for _ in range(2 * len(dataset) // BATCH):
        next(stream)
    sizes = [_resident_mb()]
    for _ in range(rounds):
        next(stream)
        sizes.append(_resident_mb())
    growth = (max(sizes) - sizes[0]) / sizes[0]
    return {
        'mosaics': rounds * BATCH,
        'mb_before': round(sizes[0], 1),
        'mb_after': round(sizes[-1], 1),
        'mb_at_most': round(max(sizes), 1),
        'growth': round(growth, 4),
    }


def _resident_mb() -> float:
    with open('/proc/self/statm', encoding='ascii') as file:
        return int(file.read().split()[1]) * os.sysconf('SC_PAGE_SIZE') / 1e6


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', default='data/bccd/', help='as tools/quickstart.sh makes it (default: %(default)s)')
    parser.add_argument('--sizes', type=int, nargs='+', default=[640, 320], help='sides of the input, px')
    parser.add_argument('--cases', nargs='+', choices=CASES, default=list(CASES))
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--runs', type=int, default=9, help='batches in a repeat')
    parser.add_argument('--memory', type=int, default=0, help='mosaics to make while the memory is measured')
    options = parser.parse_args()
    if options.repeats < LEAST_REPEATS or options.runs < 1:
        parser.error(f'--repeats must be {LEAST_REPEATS} or more, --runs 1 or more')
    return options


def main() -> None:
    options = parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    figures: dict[str, Any] = {}
    for size in options.sizes:
        for case in options.cases:
            dataset = training_set(case, size, options.data)
            figures[f'{size} {case}'] = samples_per_second(dataset, options.repeats, options.runs)
            if options.memory and case == 'ram':
                figures[f'{size} memory'] = resident_memory(dataset, options.memory)
    report('pipeline', figures)


if __name__ == '__main__':
    main()
