"""What every benchmark reports besides its figure: the machine, the versions, and how fast the machine is right now.

The scripts beside it use it as ``from machine import measure, report``. The two calibrations let figures be compared
that come from different machines, or from one machine at busy and at quiet hours.
"""

import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from mmyolo_ext.version import __version__

MATMUL_SIDE, MATMUL_THREADS = 1024, 2
IMAGE_HW, CANVAS_WH = (480, 640), (640, 640)
# turned by 2 degrees, as augmentation does, and moved so that the image stays inside: no multiple of whole pixels
WARP = np.float32([[0.99939, -0.0349, 8.3], [0.0349, 0.99939, 68.7]])
LEAST_REPEATS = 5
PACKAGES = {
    'torch': ('torch',),
    'numpy': ('numpy',),
    'opencv': ('opencv-python-headless', 'opencv-python', 'opencv-contrib-python'),
    'onnxruntime': ('onnxruntime', 'onnxruntime-gpu'),
}


def describe() -> dict[str, Any]:
    """The processor, its cores, the threads in use, the card if there is one, and versions (None: not installed)."""
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    versions = {name: _version(*distributions) for name, distributions in PACKAGES.items()}
    return {
        'cpu': _cpu_model(),
        'cores': _cores(),
        'torch_threads': torch.get_num_threads(),
        'opencv_threads': cv2.getNumThreads(),
        'card': card,
        'system': platform.platform(terse=True),
        'versions': {'python': platform.python_version(), **versions, 'mmyolo_ext': __version__},
    }


def calibrate(repeats: int = 15) -> dict[str, float]:
    """Median milliseconds of one warp on one thread and of one matrix product on two.

    The warp is ``cv2.warpAffine`` of a 640x480 image of 3 channels to 640x640, bilinear; the product is of two
    float32 matrices of 1024 x 1024. The numbers of threads are put back.
    """
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (*IMAGE_HW, 3), np.uint8)
    first, second = (torch.from_numpy(rng.random((MATMUL_SIDE, MATMUL_SIDE), np.float32)) for _ in range(2))
    opencv_threads, torch_threads = cv2.getNumThreads(), torch.get_num_threads()
    cv2.setNumThreads(1)
    torch.set_num_threads(MATMUL_THREADS)
    try:
        warp = measure(lambda: cv2.warpAffine(image, WARP, CANVAS_WH, borderValue=(114,) * 3), repeats, runs=10)
        matmul = measure(lambda: first @ second, repeats, runs=3)
    finally:
        cv2.setNumThreads(opencv_threads)
        torch.set_num_threads(torch_threads)
    return {'warp_ms': warp['median_ms'], 'matmul_ms': matmul['median_ms']}


def measure(call: Callable[[], Any], repeats: int = 7, warmup: int = 1, runs: int = 1) -> dict[str, float]:
    """Milliseconds of one call: median, least and most of the repeats, and their spread, (most - least) / median.

    Args:
        call: what is timed; where it leaves work on a GPU, the clock stops when that is done.
        repeats: at least 5.
        warmup: repeats before those that count.
        runs: calls in one repeat, whose time is divided by them; for calls of few milliseconds.

    Raises:
        ValueError: fewer repeats, no runs.
    """
    if repeats < LEAST_REPEATS or runs < 1:
        raise ValueError(f'repeats must be {LEAST_REPEATS} or more and runs 1 or more, got {repeats} and {runs}')
    return summary([_time(call, runs) for _ in range(warmup + repeats)][warmup:], runs)


def summary(times: Sequence[float], runs: int = 1) -> dict[str, float]:
    """Of milliseconds, one a repeat: median, least, most, and their spread, (most - least) / median."""
    median = statistics.median(times)
    figures = {'median_ms': median, 'min_ms': min(times), 'max_ms': max(times)}
    figures = {name: round(value, 4) for name, value in figures.items()}
    return {**figures, 'spread': round((max(times) - min(times)) / median, 3), 'repeats': len(times), 'runs': runs}


def report(name: str, figures: Any, calibration: dict[str, float] | None = None) -> None:
    """Print one JSON line: the benchmark, its figures, the machine, and the calibration, taken now if not given."""
    calibration = calibrate() if calibration is None else calibration
    line = {'benchmark': name, 'figures': figures, 'machine': describe(), 'calibration': calibration}
    print(json.dumps(line), flush=True)


def _time(call: Callable[[], Any], runs: int) -> float:
    _finish_gpu_work()
    start = time.perf_counter()
    for _ in range(runs):
        call()
    _finish_gpu_work()
    return (time.perf_counter() - start) * 1e3 / runs


def _finish_gpu_work() -> None:
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


def _cpu_model() -> str:
    try:
        with open('/proc/cpuinfo', encoding='utf-8') as file:
            names = [line.partition(':')[2].strip() for line in file if line.startswith('model name')]
    except OSError:
        names = []
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def _version(*distributions: str) -> str | None:
    for distribution in distributions:
        try:
            return importlib.metadata.version(distribution)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None
