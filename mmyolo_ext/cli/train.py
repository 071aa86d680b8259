"""Train a detector: ``mmyolo-ext train yolov5_n data.yaml --epochs 50`` or ``python tools/train.py CONFIG``."""

import argparse
import os
from collections.abc import Sequence

from mmengine.config import Config

from mmyolo_ext.apis.config_errors import config_errors_named
from mmyolo_ext.apis.shortcuts import TRACKERS
from mmyolo_ext.apis.start import set_start, turn_on_amp
from mmyolo_ext.apis.training import run_config
from mmyolo_ext.cli.common import add_common_options, load_for_run, tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', metavar='MODEL', help='config file, or the name of a model: mmyolo-ext configs')
    parser.add_argument(
        'data', metavar='DATA', nargs='?', help='data.yaml, COCO JSON, folder or zip; default: the data of the config'
    )
    parser.add_argument('--epochs', type=int, help='number of epochs')
    parser.add_argument('--patience', type=int, help='stop after this many epochs without a better score')
    parser.add_argument('--seed', type=int, help='of all random numbers')
    parser.add_argument('--load-from', metavar='WEIGHTS', help='checkpoint to start from')
    parser.add_argument(
        '--logger',
        type=lambda text: text.split(','),
        metavar='A,B',
        help=f'send the numbers of the log to {", ".join(TRACKERS)}, or several of them joined by commas',
    )
    parser.add_argument(
        '--recipe',
        choices=('auto', 'none'),
        help="'auto' chooses by the data what you leave open, the default with DATA; 'none' keeps the config",
    )
    parser.add_argument('--work-dir', help='folder for checkpoints, logs and curves; default: work_dirs/MODEL_DATA')
    parser.add_argument('--amp', action='store_true', help='automatic mixed precision (bfloat16 on a CPU)')
    parser.add_argument('--auto-scale-lr', action='store_true', help='scale the learning rate with the batch size')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        help='resume from this checkpoint, or without a name from the newest complete one in the work dir, if any',
    )
    parser.add_argument(
        '--compile',
        nargs='?',
        const='inductor',
        metavar='BACKEND',
        help='compile backbone and neck by torch.compile, with this backend (default: inductor)',
    )
    add_common_options(parser)
    return parser.parse_intermixed_args(argv)


@tool(left='a training resumes from its newest checkpoint, if there is one, with --resume')
def main(argv: Sequence[str] | None = None) -> None:
    """Train as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    cfg = load_for_run(args)
    with config_errors_named(cfg, 'train'):
        if args.amp:
            turn_on_amp(cfg)
        if args.compile:
            cfg.compile_parts = {**cfg.get('compile_parts', {}), 'backend': args.compile}
        if args.resume:
            set_start(cfg, args.resume)
        if args.auto_scale_lr:
            turn_on_auto_scale_lr(cfg)
    run_config(cfg)


def turn_on_auto_scale_lr(cfg: Config) -> None:
    """Turn on MMEngine's scaling of the learning rate with the batch size, unless the recipe does that already.

    Raises:
        ValueError: The config does not define for which batch size its learning rate is.
    """
    hooks = [*cfg.get('default_hooks', {}).values(), *cfg.get('custom_hooks', [])]
    if any(str(hook and hook.get('type')).endswith('AccumulateHook') for hook in hooks):
        if int(os.environ.get('RANK', 0)) == 0:
            print(
                '--auto-scale-lr changes nothing here: the recipe sums gradients over images and accumulates to a '
                'nominal batch, so one rate fits any batch size and number of ranks.'
            )
    elif {'enable', 'base_batch_size'} <= set(cfg.get('auto_scale_lr') or {}):
        cfg.auto_scale_lr.enable = True
    else:
        raise ValueError('--auto-scale-lr needs auto_scale_lr = dict(enable=False, base_batch_size=...) in the config')


if __name__ == '__main__':
    main()
