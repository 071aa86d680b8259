"""Search for better values of config keys: ``mmyolo-ext tune CONFIG --epochs 20``, ``python tools/tune.py CONFIG``."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis.model_names import config_folder, config_path
from mmyolo_ext.cli.common import tool
from mmyolo_ext.tuning import Tuner
from mmyolo_ext.tuning.study import PRUNERS


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description='Search for better values of config keys with Optuna')
    parser.add_argument('config', help='config file, or the name of a model')
    parser.add_argument('data', nargs='?', help='data.yaml, COCO JSON, folder or zip; default: the data of the config')
    parser.add_argument('--space', type=Path, help='search space (default: the YOLOv5 recipe)')
    parser.add_argument('--trials', type=int, default=20, help='trials in all (default: 20)')
    parser.add_argument('--epochs', type=int, help="length of each training (default: the config's)")
    parser.add_argument('--work-dir', type=Path, help='folder of the study (default: work_dirs/CONFIG_tune)')
    parser.add_argument('--storage', help='database URL or journal file (default: WORK_DIR/study.db)')
    parser.add_argument('--metric', help='validation metric, such as coco/bbox_mAP_50 (default: that of save_best)')
    parser.add_argument('--lower-is-better', action='store_true', help='minimise the metric')
    parser.add_argument('--pruner', choices=PRUNERS, default='median', help='what stops bad trials early')
    parser.add_argument('--timeout', type=float, metavar='HOURS', help='start no trial after this time')
    parser.add_argument('--seed', type=int, default=0, help='seed of the trainings and of the sampler (default: 0)')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument('--cfg-options', nargs='+', action=DictAction, help='options for every training')
    args = parser.parse_intermixed_args(argv)
    for name, least in (('trials', 1), ('epochs', 1), ('seed', 0), ('timeout', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f'--{name} must be at least {least}, got {value}')
    return args


@tool
def main(argv: Sequence[str] | None = None) -> None:
    """Search as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    config = config_path(args.config)
    work_dir = args.work_dir or Path('work_dirs') / f'{config.stem}_tune'
    tuner = Tuner(
        config,
        args.space or config_folder() / '_base_' / 'tuning' / 'yolov5.py',
        work_dir,
        metric=args.metric,
        maximize=not args.lower_is_better,
        epochs=args.epochs,
        seed=args.seed,
        pruner=args.pruner,
        storage=args.storage,
        cfg_options={**({'data': args.data} if args.data else {}), **(args.cfg_options or {})},
        amp=args.amp,
    )
    print(f'{args.config}: {args.trials} trials of {tuner.epochs} epochs in {work_dir}')
    for parameter in tuner.parameters:
        print(f'  {parameter.key}: {parameter.choice_text}, currently {parameter.current}')
    for key in tuner.missing:
        print(f'  {key}: ignored, the config does not contain it')
    try:
        tuner.run(args.trials, args.timeout)
    except KeyboardInterrupt:
        tuner.write()
        print('interrupted; the same command continues', file=sys.stderr)
        sys.exit(130)
    for file in tuner.write():
        print(f'wrote {file}')
    best = tuner.best
    if best is None:
        raise ValueError(f'no trial was completed; {work_dir}/trials.csv lists the errors')
    print(f'best: trial {best.number}, {tuner.metric} {best.value:.4f}')
    if best.number == 0:
        print('no trial was better than the config as it is, so there is no best.py')


if __name__ == '__main__':
    main()
