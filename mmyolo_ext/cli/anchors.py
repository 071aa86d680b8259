"""Fit the priors of a config to its training boxes: ``python tools/anchors.py configs/yolov5/yolov5_n_320_bccd.py``.

Prints what the present and the new priors are worth, and writes a config on top of the given one, and a picture.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.anchors.tuning import Tuned, tune
from mmyolo_ext.cli.common import tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Fit priors (anchors) to the training boxes of a config')
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('--out', type=Path, help='config to write (default: anchors/CONFIG.py)')
    parser.add_argument('--generations', type=int, default=1000, help='steps of the evolution (default: 1000)')
    parser.add_argument('--seed', type=int, default=0, help='the same gives the same priors (default: 0)')
    parser.add_argument('--force', action='store_true', help='write over files that are there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=DictAction, help='as input_size=640; they are not in the written config'
    )
    args = parser.parse_args(argv)
    if args.generations < 0 or args.seed < 0:
        raise ValueError(f'--generations and --seed must be 0 or more, got {args.generations} and {args.seed}')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    out = args.out or Path('anchors') / f'{args.config.stem}.py'
    if out.suffix != '.py':
        raise ValueError(f'--out must end in .py, got {out}')
    cfg = load_config(args.config, args.cfg_options)
    report(tune(cfg, args.config, out, args.generations, args.seed, args.force))


def report(tuned: Tuned) -> None:
    """Print the figures."""
    boxes, before, after = tuned.boxes, tuned.before, tuned.after
    height, width = boxes.size_hw
    left_out = f'; {boxes.tiny} more with a side of at most 2 px are left out' if boxes.tiny else ''
    print(f'{len(boxes.wh):,} boxes on {boxes.pictures:,} pictures fitted into {width} x {height} px{left_out}')
    print(tuned.head.rule)
    print(f'{"":24}{"before":>8}{"after":>8}')
    for name, one, other in zip(('best possible recall', 'mean fitness', 'priors a box'), before, after, strict=True):
        print(f'{name:24}{one:8.4f}{other:8.4f}')
    for stride, old, new in zip(tuned.head.strides, tuned.head.anchors_wh, tuned.anchors_wh, strict=True):
        print(f'stride {stride}: {sizes(old)} -> {sizes(new)}')
    if not tuned.files:
        print('the present priors fit as well as any that were found: nothing is written')
    for file in tuned.files:
        print(f'written: {file}')


def sizes(anchors_wh: list) -> str:
    """``10x13 16x30 33x23``."""
    return ' '.join(f'{width:g}x{height:g}' for width, height in anchors_wh)


if __name__ == '__main__':
    main()
