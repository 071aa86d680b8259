"""Train a detector: ``python tools/train.py configs/yolov5/yolov5_n_320_bccd.py``."""

import argparse
from collections.abc import Sequence

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.registry import RUNNERS

from mmyolo_ext.apis.config_check import check_config
from mmyolo_ext.apis.config_errors import config_errors_named
from mmyolo_ext.apis.distributed import prepare_processes
from mmyolo_ext.apis.start import check_start, set_start, turn_on_amp
from mmyolo_ext.cli.common import add_common_options, load_for_run, tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Train a detector')
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='folder for checkpoints, logs and curves; work_dirs/CONFIG by default')
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
    return parser.parse_args(argv)


@tool
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
        if cfg.get('load_from'):
            check_start(cfg)
        if args.launcher != 'none':
            prepare_processes(cfg, args.launcher)
        if args.auto_scale_lr:
            turn_on_auto_scale_lr(cfg)
        runner = RUNNERS.build(cfg)
    check_config(cfg, 'train')
    with config_errors_named(cfg):
        runner.train()


def turn_on_auto_scale_lr(cfg: Config) -> None:
    """Turn on MMEngine's scaling of the learning rate with the batch size, unless the recipe does that already.

    Raises:
        ValueError: The config does not define for which batch size its learning rate is.
    """
    hooks = [*cfg.get('default_hooks', {}).values(), *cfg.get('custom_hooks', [])]
    if any(str(hook and hook.get('type')).endswith('AccumulateHook') for hook in hooks):
        if is_main_process():
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
