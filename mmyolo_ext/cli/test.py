"""Evaluate a checkpoint: ``mmyolo-ext test best.pth`` or ``python tools/test.py CONFIG CHECKPOINT``."""

import argparse
from collections.abc import Sequence

from mmengine.config import Config, ConfigDict
from mmengine.registry import RUNNERS

from mmyolo_ext.apis.config import CHECKPOINTS
from mmyolo_ext.apis.config_check import check_config
from mmyolo_ext.apis.config_errors import config_errors_named
from mmyolo_ext.apis.config_nodes import leaf_datasets
from mmyolo_ext.apis.distributed import prepare_processes
from mmyolo_ext.apis.start import check_checkpoint
from mmyolo_ext.cli.common import add_common_options, load_for_run, tool


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Evaluate a detector on the test split of its config')
    parser.add_argument('config', metavar='CONFIG', help='config file, or a checkpoint that holds its config')
    parser.add_argument('checkpoint', metavar='CHECKPOINT', nargs='?', help='checkpoint file, after a config file')
    parser.add_argument('--data', help='data.yaml, COCO JSON, folder or zip; default: the data of the config')
    parser.add_argument(
        '--work-dir', help='folder for the log and the figures; default: work_dirs/CONFIG, or that of the checkpoint'
    )
    parser.add_argument('--out', help='write the predictions to this .pkl file')
    parser.add_argument('--show', action='store_true', help='show predictions in a window')
    parser.add_argument('--show-dir', help='draw predictions into this folder, under WORK_DIR/TIME')
    parser.add_argument('--wait-time', type=float, default=2, help='seconds that an image is shown')
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: several views of each image')
    parser.add_argument('--half', action='store_true', help='compute in float16, on a CPU in bfloat16')
    parser.add_argument('--fuse', action='store_true', help='fold batch norms into convolutions')
    add_common_options(parser)
    args = parser.parse_intermixed_args(argv)
    if args.out and not args.out.endswith(('.pkl', '.pickle')):
        raise ValueError(f'--out must name a .pkl file, got {args.out}')
    args.checkpoint = args.checkpoint or args.config
    if not args.checkpoint.endswith(CHECKPOINTS) and args.checkpoint == args.config:
        raise ValueError(f'give the checkpoint to test after the config {args.config}, or the checkpoint alone')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Evaluate as ``argv`` defines it, by default the command line."""
    # here, for mmyolo_ext must supply mmcv's ops before mmdet asks for them
    from mmdet.engine.hooks.utils import trigger_visualization_hook
    from mmdet.evaluation import DumpDetResults

    args = parse_args(argv)
    cfg = load_for_run(args, training=False)
    with config_errors_named(cfg, 'test'):
        cfg.load_from, cfg.resume = args.checkpoint, False
        if args.show or args.show_dir:
            trigger_visualization_hook(cfg, args)
        if args.tta:
            turn_on_tta(cfg)
        check_checkpoint(args.checkpoint)
        if args.launcher != 'none':
            prepare_processes(cfg, args.launcher, loaders=['test_dataloader'])
        if args.half:
            cfg.test_cfg.fp16 = True
        hooks = ['FuseHook', 'TestTimeHook'] if args.fuse else ['TestTimeHook']
        if 'report' not in (cfg.get('default_hooks') or {}):  # mmdet's configs, and checkpoints of earlier versions
            hooks.append('ReportHook')
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), *({'type': f'mmyolo_ext.{name}'} for name in hooks)]
        runner = RUNNERS.build(cfg)
    check_config(cfg, 'test')
    with config_errors_named(cfg):
        if args.out:
            runner.test_evaluator.metrics.append(DumpDetResults(out_file_path=args.out))
        runner.test()


def turn_on_tta(cfg: Config) -> None:
    """Wrap the model for test-time augmentation, and use ``tta_pipeline`` in the innermost dataset."""
    missing = [key for key in ('tta_model', 'tta_pipeline') if key not in cfg]
    if missing:
        raise ValueError(f'--tta needs {missing} in the config; see configs/_base_ for examples')
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)
    for dataset in leaf_datasets(cfg.test_dataloader.dataset):
        dataset.pipeline = cfg.tta_pipeline


if __name__ == '__main__':
    main()
