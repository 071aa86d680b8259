"""Time prediction: PyTorch in its forms, and on the CPU TorchScript and ONNX Runtime in float32 and int8.

Twice for each: from the normalised image to the boxes and scores of all anchors ("network"), and to the detections
after thresholds and NMS ("detections"), which decodes only likely anchors where the form can. Weights are
seeded, classes are COCO's 80, and the threshold lets 300 candidates of each image through to NMS::

    OMP_NUM_THREADS=2 python benchmarks/inference.py [--device cuda] [--models YOLOv5n] [--sizes 320] [--batches 8]

Prints one JSON line; times are those of a batch, with calibrations of the minutes in which each was taken.
"""

import argparse
import contextlib
import math
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from engines import FORMS, FORMS_ON, Engine, build_detector, engines, random_images
from machine import LEAST_REPEATS, calibrate, measure, report

from mmyolo_ext.cli.common import keep_freed_memory

MODELS = {
    'YOLOv5n': 'yolov5/yolov5_n_640_coco.py',
    'ShuffleNetV2 1.0': 'light/yolov5_shufflenetv2-1.0_640_coco.py',
    'MobileNetV3 small': 'light/yolov5_mobilenetv3-small_640_coco.py',
}
KINDS = ('network', 'detections')


def measure_model(model: str, options: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """Cases of one model: each form at each size and batch, with a calibration for every size and batch."""
    detector = build_detector(MODELS[model])
    figures = {}
    for batch in options.batches:
        for size in options.sizes:
            images = random_images(batch, size)
            cases = {}
            with TemporaryDirectory() as folder:
                for form, engine in engines(detector, images, options.forms, Path(folder), options.device):
                    case = {'model': model, 'form': form, 'size': size, 'batch': batch}
                    cases[f'{model}, {form}, {size} px, batch {batch}'] = {**case, **times(engine, options)}
            calibration = calibrate()
            figures |= {name: {**case, 'calibration': calibration} for name, case in cases.items()}
    return figures


def times(engine: Engine, options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Milliseconds of a batch, to each of :data:`KINDS`."""
    figures = {}
    for kind in KINDS:
        call = getattr(engine, kind)
        if call is None:
            continue
        # the first runs of TorchScript compile, and caches are cold
        rough = measure(call, 5, warmup=3)['median_ms']
        figures[kind] = measure(call, options.repeats, runs=max(1, math.ceil(options.repeat_ms / rough)))
    return figures


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--models', nargs='+', choices=MODELS, default=list(MODELS))
    parser.add_argument('--forms', nargs='+', choices=FORMS, help='by default all that the device has a use for')
    parser.add_argument('--sizes', nargs='+', type=int, default=[320, 640], help='sides of the images, px')
    parser.add_argument('--batches', nargs='+', type=int, default=[1], help='images per batch (default: 1)')
    parser.add_argument('--repeats', type=int, default=7)
    parser.add_argument('--repeat-ms', type=float, default=200, help='a repeat is as many runs as fill this time')
    options = parser.parse_args()
    if (
        options.repeats < LEAST_REPEATS
        or min(options.batches) < 1
        or any(side < 32 or side % 32 for side in options.sizes)
    ):
        parser.error(f'--repeats must be {LEAST_REPEATS} or more, --batches 1 or more, --sizes multiples of 32')
    if options.device == 'auto':
        options.device = 'cuda' if torch.cuda.is_available() else 'cpu'
    options.forms = options.forms or FORMS_ON[options.device]
    return options


def main() -> None:
    options = parse_args()
    keep_freed_memory()  # as tools/predict.py does
    figures: dict[str, Any] = {}
    with contextlib.redirect_stdout(sys.stderr):  # exporters and quantisers print
        for model in options.models:
            figures |= measure_model(model, options)
    report('inference', figures)


if __name__ == '__main__':
    main()
