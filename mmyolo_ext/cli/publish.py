"""Publish a trained detector: ``python tools/publish.py CONFIG CHECKPOINT --license apache-2.0``.

Writes the weights that validation used, in half precision, their whole config and a model card.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.model_card import Metrics
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.apis.publishing import publish
from mmyolo_ext.cli.common import tool

STATED = ('bbox_mAP', 'bbox_mAP_50')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Publish the weights of a training with config and model card')
    parser.add_argument('config', help='config file, or the name of a model')
    parser.add_argument('checkpoint', type=Path, help='checkpoint file')
    parser.add_argument(
        '--out', type=Path, help='.pth file to write, whose name gets a hash (default: published/CONFIG.pth)'
    )
    parser.add_argument('--fp32', action='store_true', help='store float32 instead of float16')
    parser.add_argument('--license', help='licence of these weights, for example apache-2.0')
    parser.add_argument('--origin', help='statement about the weights that the training started from')
    parser.add_argument('--test', action='store_true', help='measure the AP of the published file on the test data')
    parser.add_argument(
        '--ap', type=float, nargs='+', metavar='AP', help='known AP50-95 and, optionally, AP50, from 0 to 1'
    )
    parser.add_argument('--force', action='store_true', help='overwrite existing files')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='for example data_root=data/mine/')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    out = args.out or Path('published') / f'{config_path(args.config).stem}.pth'
    if out.suffix != '.pth':
        raise ValueError(f'--out must end in .pth, got {out}')
    if args.ap and args.test:
        raise ValueError('--ap states the AP and --test measures it: give one of them')
    published = publish(
        load_config(args.config, args.cfg_options),
        args.checkpoint,
        out,
        half=not args.fp32,
        licence=args.license,
        origin=args.origin,
        metrics=stated(args.ap),
        test=args.test,
        force=args.force,
    )
    for note in published.notes:
        print(note)
    print(f'compared with the source: {published.difference}')
    for file in published.files:
        print(f'written: {file}, {file.stat().st_size / 1e6:.2f} MB')
    for warning in published.warnings:
        print(f'warning: {warning}', file=sys.stderr)


def stated(values: list[float] | None) -> Metrics | None:
    """Return the metrics given by ``--ap``."""
    if not values:
        return None
    if len(values) > len(STATED) or not all(0 <= value <= 1 for value in values):
        raise ValueError(f'--ap takes AP50-95 and, optionally, AP50, each from 0 to 1, got {values}')
    return Metrics(dict(zip(STATED, values, strict=False)), 'as stated by the publisher')


if __name__ == '__main__':
    main()
