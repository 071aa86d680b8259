"""Export a detector and check it: ``mmyolo-ext export best.pth``, ``python tools/export.py CONFIG CHECKPOINT``.

See docs/guides/export.md.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config import CHECKPOINTS
from mmyolo_ext.apis.exporting import Export, export_detector
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.cli.common import tool
from mmyolo_ext.export.formats import SUFFIXES, Options
from mmyolo_ext.export.onnx_export import OPSET


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Export a detector for other runtimes, checked against PyTorch')
    parser.add_argument('config', metavar='CONFIG', help='config file or name, or a checkpoint that holds its config')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', help='checkpoint file, after a config')
    parser.add_argument('--format', choices=SUFFIXES, default='onnx', help='default: onnx')
    parser.add_argument('--nms', action='store_true', help='include NMS in the graph')
    parser.add_argument('--dynamic', action='store_true', help='leave batch, height and width open')
    parser.add_argument('--half', action='store_true', help='float16 weights; input and output stay float32')
    parser.add_argument('--fuse', action='store_true', help='fold batch norms into convolutions')
    parser.add_argument('--size', type=int, nargs='+', help='side, or height and width, px; default: of the config')
    parser.add_argument('--out', help='file to write; default: CHECKPOINT with the suffix of the format')
    parser.add_argument('--image', help='image for the check; default: the first of the test data of the config')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as model.test_cfg.score_thr=0.25')
    args = parser.parse_intermixed_args(argv)
    args.checkpoint = args.checkpoint or args.config
    if args.checkpoint == args.config and not args.config.endswith(CHECKPOINTS):
        raise ValueError(f'give the checkpoint to export after the config {args.config}, or the checkpoint alone')
    if args.size and len(args.size) > 2:
        raise ValueError(f'--size takes a side, or height and width, in px, got {args.size}')
    return args


@tool(left='no file was written')
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    suffix = SUFFIXES[args.format]
    out = Path(args.out or Path(args.checkpoint).with_suffix(suffix))
    if out.suffix != suffix:
        raise ValueError(f'--out for {args.format} must end in {suffix}, got {out}')
    options = Options(args.format, args.nms, args.dynamic, args.half, args.fuse)
    size_hw = tuple(args.size * 2 if len(args.size) == 1 else args.size) if args.size else None
    config = args.config if args.config.endswith(CHECKPOINTS) else config_path(args.config)
    cfg = load_config(config, args.cfg_options, with_recipe=False)
    report(export_detector(cfg, args.checkpoint, out, options, size_hw, args.image), options)


def report(export: Export, options: Options) -> None:
    """Print the files and their difference to PyTorch."""
    opset = f' (opset {OPSET})' if options.format == 'onnx' else ''
    for file in export.files:
        print(f'{options.format}{opset}: {file}, {file.stat().st_size / 1e6:.1f} MB')
    print(
        f'largest difference to PyTorch: {export.difference} (bound {export.bound.boxes_px} px, {export.bound.scores})'
    )


if __name__ == '__main__':
    main()
