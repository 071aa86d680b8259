"""Search for better values of config keys: ``python tools/tune.py configs/yolov5/n_320_bccd.py --epochs 20``.

Each trial is a training of its own; the first is the config as it stands. The same command again goes on.
"""

import argparse
import signal
import sys
import time
from pathlib import Path

from mmengine.config import DictAction

from mmyolo_ext.apis.cli import run_tool
from mmyolo_ext.apis.tuning import memory
from mmyolo_ext.apis.tuning.importance import importance_of
from mmyolo_ext.apis.tuning.lock import locked
from mmyolo_ext.apis.tuning.plan import PRUNERS, Effort, Plan, make_plan
from mmyolo_ext.apis.tuning.plots import draw_all
from mmyolo_ext.apis.tuning.report import BEST, table, write_files
from mmyolo_ext.apis.tuning.search import Search, training_command

ROOT = Path(__file__).resolve().parents[1]
SPACE = ROOT / 'configs' / '_base_' / 'tuning' / 'yolov5.py'
DRAW_EVERY = 60  # seconds, at least


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description='Search for better values of config keys by many short trainings')
    parser.add_argument('config', type=Path, help='config file')
    parser.add_argument('--space', type=Path, default=SPACE, help='what may change (default: the recipe of YOLOv5)')
    parser.add_argument('--trials', type=int, default=20, help='in all, the config as it stands first (default: 20)')
    parser.add_argument('--epochs', type=int, help='of each training (default: as the config says)')
    parser.add_argument('--work-dir', type=Path, help='folder of the search (default: work_dirs/CONFIG_tune)')
    parser.add_argument('--metric', help='score, as coco/bbox_mAP_50 (default: what the config saves the best by)')
    parser.add_argument('--lower-is-better', action='store_true', help='the lowest score is sought')
    parser.add_argument('--pruner', choices=PRUNERS, default='median', help='what ends trainings that lag behind')
    parser.add_argument('--jobs', type=int, default=1, help='trainings side by side, on a GPU each if there are some')
    parser.add_argument('--timeout', type=float, metavar='HOURS', help='end after this time; the same command goes on')
    parser.add_argument('--seed', type=int, default=0, help='of every training and of the search (default: 0)')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='as batch_size=8, in every training; not in what is written',
    )
    args = parser.parse_args()
    for name, least in (('trials', 1), ('epochs', 1), ('jobs', 1), ('seed', 0), ('timeout', 0)):
        value = getattr(args, name)
        if value is not None and value < least:
            raise ValueError(f'--{name} must be {least} or more, got {value}')
    return args


def main() -> None:
    args = parse_args()
    memory.need_optuna()
    folder = args.work_dir or Path('work_dirs') / f'{args.config.stem}_tune'
    end_as_by_ctrl_c()
    with locked(folder) as lock:
        plan = make_plan(
            args.config, args.space, folder, args.metric, not args.lower_is_better, args.epochs, args.seed,
            args.cfg_options,
        )  # fmt: skip
        memory.check_identity(folder, {**plan.identity, 'amp': args.amp})
        effort = Effort(args.trials, args.jobs, args.timeout, args.pruner)
        introduce(plan, effort, folder)
        command = training_command(ROOT / 'tools' / 'train.py', args.amp)
        search = Search(plan, effort, folder, command, lock, Reporter(plan, folder))
        run(search, plan, folder)


def end_as_by_ctrl_c() -> None:
    """When told to end, or when the terminal is closed: trainings are ended, files written. Not under nohup."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, signal.default_int_handler)


def run(search: Search, plan: Plan, folder: Path) -> None:
    """Search, and say what came of it, however it ends."""
    stopped = ''
    try:
        if not search.go():
            stopped = 'the time is over'
    except KeyboardInterrupt:
        stopped = 'stopped'
    conclude(search, plan, folder)
    if stopped:
        print(f'{stopped}; the same command goes on', file=sys.stderr)
        sys.exit(130 if stopped == 'stopped' else 0)


class Reporter:
    """Writes the files after each run, and the pictures now and then."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan, self._folder, self._drawn = plan, folder, time.monotonic()

    def __call__(self, runs: list[memory.Run]) -> None:
        write_files(runs, self._plan, self._folder)
        if time.monotonic() - self._drawn > DRAW_EVERY:
            draw_all(runs, self._plan, None, self._folder)
            self._drawn = time.monotonic()


def introduce(plan: Plan, effort: Effort, folder: Path) -> None:
    """Say what is going to be done."""
    print(f'{plan.config}: {effort.trials} trials of {plan.length} {plan.unit}s, {plan.validations} validations each')
    for parameter in plan.space.values():
        many = f', in {len(parameter.places)} places' if len(parameter.places) > 1 else ''
        kinds = [' evenly over orders of magnitude'] if parameter.log else []
        span = f'{parameter.low:g} to {parameter.high:g}' if not parameter.choices else f'of {list(parameter.choices)}'
        print(f'  {parameter.key}: {span}{"".join(kinds)}; now {parameter.present}{many}')
    for key in plan.left_out:
        print(f'  {key}: left out, the config has none')
    if effort.pruner != 'none' and plan.validations < 2:
        print('  nothing can be pruned, for a training validates once: --cfg-options train_cfg.val_interval=...')
    print(f'logs and files: {folder}', flush=True)


def conclude(search: Search, plan: Plan, folder: Path) -> None:
    """Print the table, write the files, draw."""
    # no training runs any more
    runs = [run._replace(state='to go on') if run.state == 'running' else run for run in search.runs()]
    if not runs:
        return
    print(table(runs, plan))
    importance = importance_of(runs, plan.space, plan.greater)
    files = write_files(runs, plan, folder) + draw_all(runs, plan, importance, folder)
    if folder / BEST not in files:
        print('nothing is better than the config as it stands: no best.py is written')
    for file in files:
        print(f'written: {file}')


if __name__ == '__main__':
    run_tool(main)
