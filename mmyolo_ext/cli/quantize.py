"""Quantise an ONNX export to int8 and compare AP: ``python tools/quantize.py MODEL.onnx CONFIG --images 64``."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import calibration_files, evaluate_exported, network_inputs
from mmyolo_ext.cli.common import tool
from mmyolo_ext.export.quantize import quantize
from mmyolo_ext.export.runtime import ExportedDetector


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Quantise an exported ONNX file to int8')
    parser.add_argument('model', help='float32 .onnx file of tools/export.py')
    parser.add_argument('config', help='config file')
    parser.add_argument('--images', type=int, default=64, help='images for the calibration (default: 64)')
    parser.add_argument('--folder', help='folder of these images; default: the training data of the config')
    parser.add_argument('--out', help='file to write; default: MODEL_int8.onnx')
    parser.add_argument('--no-ap', action='store_true', help='do not evaluate')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as test_dataloader.batch_size=8')
    args = parser.parse_args(argv)
    if args.images < 1:
        raise ValueError(f'--images must be at least 1, got {args.images}')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    cfg = load_config(args.config, args.cfg_options, with_recipe=False)
    detector = ExportedDetector(args.model)
    out = Path(args.out or Path(args.model).with_name(f'{Path(args.model).stem}_int8.onnx'))
    files = calibration_files(cfg, args.folder, args.images)
    quantize(args.model, out, network_inputs(files, detector))
    sizes = [file.stat().st_size / 1e6 for file in (out, Path(args.model))]
    print(f'{out}: {sizes[0]:.1f} MB of {sizes[1]:.1f}, calibrated with {len(files)} images')
    if not args.no_ap:
        before, after = (evaluate_exported(ExportedDetector(file), cfg.copy()) for file in (args.model, out))
        for name, value in before.items():
            print(f'{name}: {value:.4f} before, {after[name]:.4f} after')


if __name__ == '__main__':
    main()
