"""Cost of training on many GPUs: measured with two CPU processes, computed from that for up to 1,000 GPUs.

*Measured*: the all-reduce of a model's gradients between two gloo processes of this machine, and of one number, which
is the latency; the bytes that ranks exchange about config and data at the start; the images/s of one core of the
loader at 640 px, decoded from JPEG or cached. *Computed*: a ring all-reduce of n processes takes
2 (n - 1) / n x bytes / bandwidth + 2 (n - 1) x latency, a tree 2 x bytes / bandwidth + 2 log2(n) x latency; NCCL uses
the faster one. Shares are upper bounds, because DDP overlaps a part with the backward pass::

    OMP_NUM_THREADS=1 python benchmarks/scaling.py [--images-per-second 500] [--gigabits 100] [--latency-us 10]
    OMP_NUM_THREADS=1 python benchmarks/scaling.py --model-only     # the computed tables, without measuring
"""

import argparse
import math
import pickle
import socket
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from machine import report
from torch import distributed
from torch.multiprocessing import get_context, spawn

PARAMETERS = {'YOLOv5n': 1_872_157, 'YOLOv5s': 7_235_389}  # at 80 classes
BYTES_PER_PARAMETER = 4  # float32
GPUS = (2, 8, 16, 64, 256, 1000)
REPEATS, RUNS = 9, 10
IMAGES, LOADER_REPEATS, LOADER_RUNS = 96, 5, 3


def all_reduce_seconds(count: int, size: int, gigabits: float, latency_s: float) -> float:
    """Return the seconds of an all-reduce of ``size`` bytes over ``count`` processes, by ring or tree.

    Args:
        count: Number of processes.
        size: Bytes.
        gigabits: Bandwidth of the slowest link that the bytes pass, in Gbit/s.
        latency_s: Seconds of one message without content.
    """
    if count < 2:
        return 0.0
    transfer = size / (gigabits * 1e9 / 8)
    ring = 2 * (count - 1) / count * transfer + 2 * (count - 1) * latency_s
    tree = 2 * transfer + 2 * math.log2(count) * latency_s
    return min(ring, tree)


def share_of_step(
    count: int, size: int, batch: int, images_per_second: float, gigabits: float, latency_s: float
) -> float:
    """Return the share of communication in a step, without overlap with the backward pass."""
    seconds = all_reduce_seconds(count, size, gigabits, latency_s)
    return seconds / (seconds + batch / images_per_second)


def measure_all_reduce() -> dict[str, Any]:
    """Measure all-reduces between two gloo processes: milliseconds, and the bandwidth by the ring formula."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    results = get_context('spawn').SimpleQueue()
    spawn(_all_reduce_rank, (port, results), nprocs=2)
    times = results.get()
    latency_ms = times.pop('one number')['median_ms']
    for name, figures in times.items():
        transfer = (figures['median_ms'] - latency_ms) / 1e3
        figures['gigabits_per_second'] = round(PARAMETERS[name] * BYTES_PER_PARAMETER * 8 / transfer / 1e9, 2)
    return {'latency_ms': latency_ms, **times}


def _all_reduce_rank(rank: int, port: int, results: Any) -> None:
    distributed.init_process_group('gloo', f'tcp://127.0.0.1:{port}', rank=rank, world_size=2)
    figures = {}
    for name, count in {'one number': 1, **PARAMETERS}.items():
        gradients = torch.ones(count)
        times = []
        for _ in range(REPEATS + 1):
            distributed.barrier()
            start = time.perf_counter()
            for _ in range(RUNS):
                distributed.all_reduce(gradients)
                gradients.fill_(1)
            times.append((time.perf_counter() - start) * 1e3 / RUNS)
        counted = times[1:]
        figures[name] = {
            'median_ms': round(statistics.median(counted), 3),
            'min_ms': round(min(counted), 3),
            'max_ms': round(max(counted), 3),
        }
    if rank == 0:
        results.put(figures)
    distributed.destroy_process_group()


def measure_start() -> dict[str, int]:
    """Return the bytes that rank 0 sends to the others about its config before the first step."""
    from mmyolo_ext.apis import load_config
    from mmyolo_ext.apis.distributed import config_facts

    config = Path(__file__).parents[1] / 'configs' / 'yolov5' / 'yolov5_n_640_coco.py'
    return {'config_bytes': len(pickle.dumps(config_facts(load_config(config))))}


def measure_loader() -> dict[str, float]:
    """Return the training images/s of one core at 640 px, from 640x480 JPEGs: mosaic, affine, HSV jitter and flip."""
    from pipeline import samples_per_second, training_set
    from synthetic import write

    with tempfile.TemporaryDirectory() as folder:
        for name in ('annotations', 'JPEGImages'):
            (Path(folder) / name).mkdir()
        rng = np.random.default_rng(0)
        write(Path(folder), 'trainval', IMAGES, rng)
        write(Path(folder), 'test', 1, rng)
        return {
            case: samples_per_second(training_set(case, 640, f'{folder}/'), LOADER_REPEATS, LOADER_RUNS)[
                'samples_per_second'
            ]
            for case in ('disk', 'ram')
        }


def computed(options: argparse.Namespace) -> dict[str, Any]:
    """Return milliseconds of an all-reduce and its share of a step, by model and number of GPUs."""
    latency_s = options.latency_us * 1e-6
    table = {}
    for name, parameters in PARAMETERS.items():
        size = parameters * BYTES_PER_PARAMETER
        table[name] = {
            count: {
                'all_reduce_ms': round(1e3 * all_reduce_seconds(count, size, options.gigabits, latency_s), 2),
                'share_of_step': round(
                    share_of_step(count, size, options.batch, options.images_per_second, options.gigabits, latency_s),
                    4,
                ),
            }
            for count in GPUS
        }
    return table


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images-per-second', type=float, default=500, help='of one GPU (default: %(default)s)')
    parser.add_argument('--batch', type=int, default=16, help='images of one GPU in a step (default: %(default)s)')
    parser.add_argument('--gigabits', type=float, default=100, help='network of a node, Gbit/s (default: %(default)s)')
    parser.add_argument('--latency-us', type=float, default=10, help='of one message (default: %(default)s)')
    parser.add_argument('--model-only', action='store_true', help='measure nothing')
    options = parser.parse_args()
    if min(options.images_per_second, options.batch, options.gigabits) <= 0 or options.latency_us < 0:
        parser.error('--images-per-second, --batch and --gigabits must be positive, --latency-us at least 0')
    return options


def main() -> None:
    options = parse_args()
    figures: dict[str, Any] = {'assumed': vars(options), 'computed': computed(options)}
    if not options.model_only:
        cv2.setNumThreads(0)
        torch.set_num_threads(1)
        figures['measured'] = {
            'all_reduce_of_two_processes': measure_all_reduce(),
            'start': measure_start(),
            'loader_images_per_second_and_core': measure_loader(),
        }
    report('scaling', figures)


if __name__ == '__main__':
    main()
