"""Publish a trained detector: ``python tools/publish.py CONFIG CHECKPOINT --license apache-2.0``.

Writes the weights that validation used, in half precision, their whole config and a model card.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.publishing import Figures, Options, publish
from mmyolo_ext.cli.common import tool

SAID = ('bbox_mAP', 'bbox_mAP_50')


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Publish the weights of a training, with their config and a card')
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', type=Path, help='checkpoint file')
    parser.add_argument(
        '--out', type=Path, help='.pth file to write, whose name gets a hash (default: published/CONFIG.pth)'
    )
    parser.add_argument('--fp32', action='store_true', help='store float32 instead of float16')
    parser.add_argument('--license', help='of these weights, as apache-2.0')
    parser.add_argument('--origin', help='what to say of the weights that the training started from')
    parser.add_argument('--test', action='store_true', help='measure the AP of the published file on the test data')
    parser.add_argument(
        '--ap', type=float, nargs='+', metavar='AP', help='AP50-95 and, if you like, AP50, from 0 to 1, as you know it'
    )
    parser.add_argument('--force', action='store_true', help='write over what was published before')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='as data_root=data/mine/')
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    out = args.out or Path('published') / f'{Path(args.config).stem}.pth'
    if out.suffix != '.pth':
        raise ValueError(f'--out must end in .pth, got {out}')
    if args.ap and args.test:
        raise ValueError('--ap says the AP and --test measures it: give one of them')
    options = Options(not args.fp32, args.license, args.origin, said(args.ap), args.test, args.force)
    published = publish(load_config(args.config, args.cfg_options), args.checkpoint, out, options)
    for note in published.notes:
        print(note)
    print(f'largest difference to the source on {published.picture}: {published.difference}')
    for file in published.files:
        print(f'written: {file}, {file.stat().st_size / 1e6:.2f} MB')
    for warning in published.warnings:
        print(f'warning: {warning}', file=sys.stderr)


def said(values: list[float] | None) -> Figures | None:
    """The figures of ``--ap``."""
    if not values:
        return None
    if len(values) > len(SAID) or not all(0 <= value <= 1 for value in values):
        raise ValueError(f'--ap takes AP50-95 and, if you like, AP50, each from 0 to 1, got {values}')
    return Figures(dict(zip(SAID, values, strict=False)), 'as stated by the publisher')
