"""How long our NMS takes beside mmcv's compiled one: 30,000 boxes of 80 classes on the CPU.

Run it where mmcv has its compiled ops and nothing else runs, from anywhere::

    OMP_NUM_THREADS=1 python benchmarks/nms_speed.py [--repeats 9] [--only 'a call per class']

Prints one JSON line with all scenes, the two taking turns, and exits with 1 if ours takes over three times as long on
boxes of many classes.
"""

import argparse
import contextlib
import statistics
import sys
import time

import numpy as np
import torch
from compiled_ops import ours, require_compiled_ops
from machine import report

import mmcv.ops  # isort: skip
from op_cases import crowded_boxes  # isort: skip

COUNT, CLASSES, BOUND = 30_000, 80, 3.0


def scenes(rng: np.random.RandomState) -> dict[str, np.ndarray]:
    crowded = {f'{objects} objects': crowded_boxes(rng, COUNT, objects) for objects in (20, 200, 2000)}
    corner = rng.rand(COUNT, 2) * 640
    return {**crowded, 'spread evenly': np.hstack([corner, corner + rng.rand(COUNT, 2) * 100])}


def time_nms(repeats: int, only: str) -> list[dict]:
    """30,000 boxes of 80 classes, mmcv's way (one call per class) and in one call; a ratio over 3 fails."""
    lines, rng = [], np.random.RandomState(0)
    scores = torch.from_numpy(rng.rand(COUNT).astype(np.float32))
    spreads = {
        'even': rng.randint(CLASSES, size=COUNT),
        'skewed': (rng.rand(COUNT) ** 4 * CLASSES).astype(int),
        'one': np.zeros(COUNT, int),
    }
    for name, scene in scenes(rng).items():
        boxes = torch.from_numpy(scene.astype(np.float32))
        for spread, classes in spreads.items():
            for split_thr in (10000, 10**9):
                config = {'type': 'nms', 'iou_threshold': 0.65, 'split_thr': split_thr}
                arguments = (boxes, scores, torch.from_numpy(classes), config)
                label = f'nms {name}, classes {spread}, {"one call" if split_thr > COUNT else "a call per class"}'
                if only in label:
                    lines.append(race(label, arguments, repeats, bound=None if spread == 'one' else BOUND))
    return lines


def race(label: str, arguments: tuple, repeats: int, bound: float | None) -> dict:
    times: dict[str, list[float]] = {'compiled': [], 'ours': []}
    for _ in range(repeats + 1):
        for who in times:
            with ours('nms') if who == 'ours' else contextlib.nullcontext():
                start = time.perf_counter()
                mmcv.ops.batched_nms(*arguments)
                times[who].append((time.perf_counter() - start) * 1e3)
    line = {'timing': label, 'repeats': repeats}
    for who, values in times.items():
        values = sorted(values[1:])
        line[who] = {'median_ms': statistics.median(values), 'min_ms': values[0], 'max_ms': values[-1]}
    ratio = line['ours']['median_ms'] / line['compiled']['median_ms']
    return {**line, 'ratio': round(ratio, 2), 'bound': bound, 'passed': bound is None or ratio <= bound}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--repeats', type=int, default=9, help='timed runs of each side, after one to warm up')
    parser.add_argument('--only', default='', help='take the scenes alone whose name has this text')
    options = parser.parse_args()
    require_compiled_ops(parser)
    lines = time_nms(options.repeats, options.only)
    report('nms_speed', lines)
    return 0 if all(line['passed'] for line in lines) else 1


if __name__ == '__main__':
    sys.exit(main())
