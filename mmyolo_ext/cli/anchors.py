"""Fit anchors to training boxes: ``mmyolo-ext anchors yolov5_n data.yaml``, ``python tools/anchors.py CONFIG``.

Prints the scores of the present and the new anchors, and writes a config based on the given one, and a plot.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.anchors import Fit, fit_config
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.cli.common import tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Fit anchors to the training boxes of a config')
    parser.add_argument('config', help='config file, or the name of a model')
    parser.add_argument('data', nargs='?', help='data.yaml, COCO JSON, folder or zip; default: the data of the config')
    parser.add_argument('--out', type=Path, help='config to write (default: anchors/CONFIG.py)')
    parser.add_argument('--generations', type=int, default=1000, help='steps of the search (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='seed of the search (default: 0)')
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='for example input_size=640; not in the written config',
    )
    args = parser.parse_intermixed_args(argv)
    if args.generations < 0 or args.seed < 0:
        raise ValueError(f'--generations and --seed must be 0 or more, got {args.generations} and {args.seed}')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    config = config_path(args.config)
    out = args.out or Path('anchors') / f'{config.stem}.py'
    if out.suffix != '.py':
        raise ValueError(f'--out must end in .py, got {out}')
    options = {**({'data': args.data} if args.data else {}), **(args.cfg_options or {})}
    cfg = load_config(config, options, with_recipe=False)
    report(fit_config(cfg, config, out, args.generations, args.seed, args.force))


def report(fit: Fit) -> None:
    """Print the scores and the anchors before and after."""
    boxes, (height, width) = fit.boxes, fit.boxes.size_hw
    left_out = f'; {boxes.num_tiny} more with a side of at most 2 px are left out' if boxes.num_tiny else ''
    print(f'{len(boxes.wh):,} boxes in {boxes.num_images:,} images scaled to {width} x {height} px{left_out}')
    print(fit.rule)
    print(f'{"":24}{"before":>8}{"after":>8}')
    names = ('best possible recall', 'mean fitness', 'anchors per box')
    for name, before, after in zip(names, fit.before, fit.after, strict=True):
        print(f'{name:24}{before:8.4f}{after:8.4f}')
    for stride, *levels in zip(fit.strides, fit.before_wh, fit.after_wh, strict=True):
        before, after = (' '.join(f'{width:g}x{height:g}' for width, height in level) for level in levels)
        print(f'stride {stride}: {before} -> {after}')
    if not fit.files:
        print('the search found no better anchors: nothing is written')
    for file in fit.files:
        print(f'written: {file}')


if __name__ == '__main__':
    main()
