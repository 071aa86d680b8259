"""One epoch of YOLOv5n on BCCD, 320 px, batch 16, against the bare steps of its network; and its start-up time.

The epoch is that of ``configs/yolov5/yolov5_n_320_bccd.py``: loader, augmentation, losses, hooks, log and
checkpoint. Bare steps of the same shapes run before and after it, in the same process; ``ratio`` is the time of the
epoch over that of the bare steps around it, ``parts_ms`` the time of each other part, per step. *first step* is
measured on new processes of ``tools/train.py``, from their start to the end of their first step::

    OMP_NUM_THREADS=2 python benchmarks/epoch.py [--device cuda] [--amp] [--repeats 9]
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from first_step import FILE
from machine import report
from training import LEAST_REPEATS, alternate, choose_device, spread_ms

from mmyolo_ext.apis import load_config

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'


def epoch(options: argparse.Namespace) -> dict[str, Any]:
    """Figures of the epoch, a step."""
    cfg = load_config(CONFIG, {'data_root': options.data, **workers(options)})
    if options.amp:
        cfg.optim_wrapper.type = 'mmyolo_ext.YOLOAmpOptimWrapper'
    cfg.default_hooks.close_mosaic.num_last_epochs = 0
    cfg.default_hooks.checkpoint.save_best = None  # nothing validates here
    cfg.default_hooks.pop('curves')
    with tempfile.TemporaryDirectory() as cfg.work_dir:
        return alternate(cfg, options.repeats)


def first_steps(options: argparse.Namespace) -> dict[str, float]:
    """From the start of a process to its first batch and to the end of its first step."""
    batches, steps = [], []
    for _ in range(options.repeats + 1):  # the first one reads the files that the others find in memory
        with tempfile.TemporaryDirectory() as folder:
            batch, step = first_step(options, Path(folder))
        batches.append(batch)
        steps.append(step)
    return {
        **spread_ms(steps[1:], 1),
        'first_of_all_ms': round(steps[0] * 1e3, 1),
        'batch_ready_ms': round(statistics.median(batches[1:]) * 1e3, 1),
    }


def first_step(options: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Seconds of one process.

    Raises:
        RuntimeError: it ended before its first step, with what it said.
    """
    settings = {'data_root': options.data, **workers(options)}
    config = folder / 'config.py'
    lines = (
        f'_base_ = {str(CONFIG)!r}',
        "custom_imports = dict(imports=['mmyolo_ext', 'first_step'])",
        "custom_hooks = [dict(type='FirstStepHook')]",
    )
    config.write_text('\n'.join(lines), encoding='utf-8')
    command = [sys.executable, ROOT / 'tools' / 'train.py', config, '--work-dir', folder / 'run', '--cfg-options']
    note = folder / 'times'
    paths = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get('PYTHONPATH')]))
    environment = {**os.environ, 'PYTHONPATH': paths, FILE: str(note)}
    start = time.time()
    done = subprocess.run(
        [*map(str, command), *(f'{key}={value}' for key, value in settings.items())],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if not note.is_file():
        raise RuntimeError(f'tools/train.py ended with code {done.returncode} before a step: {done.stderr[-2000:]}')
    batch_at, step_at = map(float, note.read_text(encoding='utf-8').split())
    return batch_at - start, step_at - start


def workers(options: argparse.Namespace) -> dict[str, Any]:
    """Settings of the loader, if other than the config's."""
    if options.workers is None:
        return {}
    return {
        'train_dataloader.num_workers': options.workers,
        'train_dataloader.persistent_workers': options.workers > 0,
    }


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--device', choices=('auto', 'cpu', 'cuda'), default='auto')
    parser.add_argument('--data', default='data/bccd/', help='as tools/quickstart.sh makes it (default: %(default)s)')
    parser.add_argument('--amp', action='store_true')
    parser.add_argument('--workers', type=int, help="of the loader (default: the config's)")
    parser.add_argument('--repeats', type=int, default=9, help='of the epoch and of the first step')
    parser.add_argument('--only', choices=('epoch', 'first step'))
    options = parser.parse_args()
    if options.repeats < LEAST_REPEATS:
        parser.error(f'--repeats must be {LEAST_REPEATS} or more')
    return options


def main() -> None:
    options = parse_args()
    choose_device(options.device)
    cases = {'epoch': epoch, 'first step': first_steps}
    with contextlib.redirect_stdout(sys.stderr):  # MMEngine logs to the standard output
        figures = {name: case(options) for name, case in cases.items() if options.only in (None, name)}
    report('epoch', figures)


if __name__ == '__main__':
    main()
