"""Int8 by onnxruntime, with AP before and after: ``python tools/quantize.py MODEL.onnx CONFIG --images 64``."""

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from mmengine.config import Config, DictAction
from mmengine.registry import init_default_scope

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.cli import run_tool
from mmyolo_ext.apis.exported_ap import evaluate
from mmyolo_ext.apis.shortcuts import leaf_datasets
from mmyolo_ext.export.quantize import quantize
from mmyolo_ext.export.runtime import ExportedDetector, letterbox, normalise, read_picture
from mmyolo_ext.registry import DATASETS

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp')


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Quantise an exported ONNX file to int8')
    parser.add_argument('model', help='.onnx of tools/export.py, in float32')
    parser.add_argument('config', help='config file')
    parser.add_argument('--images', type=int, default=64, help='pictures to calibrate with (default: 64)')
    parser.add_argument('--folder', help='take them from this folder; default: the training data of the config')
    parser.add_argument('--out', help='file to write; default: MODEL_int8.onnx')
    parser.add_argument('--no-ap', action='store_true', help='do not evaluate')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as test_dataloader.batch_size=8')
    args = parser.parse_args()
    if args.images < 1:
        raise ValueError(f'--images must be 1 or more, got {args.images}')
    return args


def main() -> None:
    args = parse_args()
    cfg = load_config(args.config, args.cfg_options)
    detector = ExportedDetector(args.model)
    out = Path(args.out or Path(args.model).with_name(f'{Path(args.model).stem}_int8.onnx'))
    files = spread(in_folder(args.folder) if args.folder else in_training(cfg), args.images)
    quantize(args.model, out, inputs(files, detector))
    sizes = [file.stat().st_size / 1e6 for file in (out, Path(args.model))]
    print(f'{out}: {sizes[0]:.1f} MB of {sizes[1]:.1f}, ranges from {len(files)} pictures')
    if not args.no_ap:
        before, after = (evaluate(ExportedDetector(file), cfg.copy()) for file in (args.model, out))
        for name, value in before.items():
            print(f'{name}: {value:.4f} before, {after[name]:.4f} after')


def in_folder(folder: str) -> list[str]:
    """The pictures in a folder."""
    if not Path(folder).is_dir():
        raise ValueError(f'there is no folder {folder}')
    return [str(file) for file in sorted(Path(folder).iterdir()) if file.suffix.lower() in SUFFIXES]


def in_training(cfg: Config) -> list[str]:
    """The pictures of the training data."""
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    dataset = DATASETS.build(next(leaf_datasets(cfg.train_dataloader.dataset)))
    return [dataset.get_data_info(index)['img_path'] for index in range(len(dataset))]


def spread(files: list[str], count: int) -> list[str]:
    """``count`` of them at even distances, or all if there are fewer."""
    if len(files) <= count:
        return files
    return [files[index * len(files) // count] for index in range(count)]


def inputs(files: list[str], detector: ExportedDetector) -> Iterator[np.ndarray]:
    """Each picture as the network takes it."""
    for file in files:
        canvas, _, _ = letterbox(read_picture(file), detector.size_hw, detector.size_hw, detector.rules['letterbox'])
        yield normalise([canvas], detector.rules)


if __name__ == '__main__':
    run_tool(main)
