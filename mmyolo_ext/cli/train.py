"""Train a detector: ``python tools/train.py configs/yolov5/yolov5_n_320_bccd.py``."""

import argparse
from collections.abc import Sequence

from mmengine.logging import print_log
from mmengine.registry import RUNNERS

from mmyolo_ext.apis.config_check import check_config
from mmyolo_ext.apis.config_errors import config_errors_named
from mmyolo_ext.apis.distributed import prepare_processes
from mmyolo_ext.apis.files import check_start, check_work_dir, set_start
from mmyolo_ext.apis.training import turn_on_amp, turn_on_auto_scale_lr
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
        help='let torch.compile compile backbone and neck, by this backend, inductor if none is named',
    )
    add_common_options(parser)
    return parser.parse_args(argv)


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Run the tool on ``argv``, by default the command line."""
    args = parse_args(argv)
    cfg = load_for_run(args)
    check_config(cfg, 'train')
    if args.amp:
        turn_on_amp(cfg)
    if args.compile:
        cfg.compile_parts = {**cfg.get('compile_parts', {}), 'backend': args.compile}
    if args.resume:
        set_start(cfg, args.resume)
    check_work_dir(cfg.work_dir)
    check_start(cfg)
    prepare_processes(cfg, args.launcher)
    fits_any_batch = turn_on_auto_scale_lr(cfg) if args.auto_scale_lr else False
    cfg.setdefault('runner_type', 'mmyolo_ext.Runner')
    with config_errors_named(cfg):
        runner = RUNNERS.build(cfg)
    if fits_any_batch:
        print_log(
            '--auto-scale-lr changes nothing here: the recipe sums gradients over images and accumulates to a nominal '
            'batch, so one rate fits any batch size and number of ranks. The effective rate follows.',
            logger='current',
        )
    with config_errors_named(cfg):
        runner.train()


if __name__ == '__main__':
    main()
