"""Quantise an export to int8, compare AP and speed: ``mmyolo-ext quantize MODEL.onnx CONFIG --images 64``."""

import argparse
import os
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import calibration_files, evaluate_exported, network_inputs
from mmyolo_ext.cli.common import tool
from mmyolo_ext.export.quantize import quantize, quantize_openvino
from mmyolo_ext.export.runtime import ExportedDetector
from mmyolo_ext.progress import with_bar

RUNS = 40


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Quantise an exported ONNX or OpenVINO file to int8')
    parser.add_argument('model', help='float32 .onnx file, or .xml of OpenVINO, of tools/export.py')
    parser.add_argument('config', help='config file')
    parser.add_argument('--images', type=int, default=64, help='images for the calibration (default: 64)')
    parser.add_argument('--folder', help='folder of these images; default: the training data of the config')
    parser.add_argument('--out', help='file to write; default: MODEL_int8 with the same suffix')
    parser.add_argument('--no-ap', action='store_true', help='do not evaluate')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as test_dataloader.batch_size=8')
    args = parser.parse_args(argv)
    if args.images < 1:
        raise ValueError(f'--images must be at least 1, got {args.images}')
    return args


@tool(left='no file was written')
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, with_recipe=False)
    detector = ExportedDetector(args.model)
    suffix = Path(args.model).suffix
    out = Path(args.out or Path(args.model).with_name(f'{Path(args.model).stem}_int8{suffix}'))
    if out.suffix != suffix:
        raise ValueError(f'--out must end in {suffix} as {args.model} does, got {out}')
    files = calibration_files(cfg, args.folder, args.images)
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out.parent) as folder:  # so that no half of a file stays
        write = quantize_openvino if suffix == '.xml' else quantize
        batches = with_bar(network_inputs(files, detector), 'Calibration', len(files))
        write(args.model, Path(folder) / out.name, batches)
        for part in Path(folder).iterdir():
            os.replace(part, out.parent / part.name)
    sizes = [
        file.with_suffix('.bin' if suffix == '.xml' else suffix).stat().st_size / 1e6
        for file in (out, Path(args.model))
    ]
    print(f'{out}: {sizes[0]:.1f} MB of {sizes[1]:.1f}, calibrated with {len(files)} images')
    both = [ExportedDetector(file) for file in (args.model, out)]
    image = next(network_inputs(files[:1], detector))
    print('{:.1f} ms before, {:.1f} ms after, one image, network only'.format(*median_ms(both, image)))
    if not args.no_ap:
        before, after = (evaluate_exported(one, cfg.copy()) for one in both)
        for name, value in before.items():
            print(f'{name}: {value:.4f} before, {after[name]:.4f} after')


def median_ms(detectors: list[ExportedDetector], image: np.ndarray) -> list[float]:
    """Return the median time of each detector's network, run in turn so that other load meets all alike."""
    seconds = [[] for _ in detectors]
    for _ in range(RUNS):
        for own, detector in zip(seconds, detectors, strict=True):
            start = time.perf_counter()
            detector._run(image)
            own.append(time.perf_counter() - start)
    return [1e3 * statistics.median(own[RUNS // 4 :]) for own in seconds]  # the first warm up


if __name__ == '__main__':
    main()
