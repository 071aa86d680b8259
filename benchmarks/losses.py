"""Train a small detector on BCCD with each class loss and several seeds, and compare.

The detector is YOLOv5n at 256 px, from scratch; the EMA weights of the last epoch are tested. Runs differ in the seed
(initial weights, order and augmentation of the images) and in one loss::

    python benchmarks/losses.py                     # hours; resumes an interrupted study
    python benchmarks/losses.py --report            # only write the table and the plot

Every finished run is one entry of ``benchmarks/results/losses.json``; the table goes into ``docs/guides/losses.md``,
the plot into ``docs/images/losses_bccd.png``.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / 'benchmarks/results/losses.json'
BASE = 'configs/yolov5/yolov5_n_320_bccd.py'
BCE = {'type': 'mmyolo_ext.BCELoss'}
SOFTMAX = {'type': 'mmdet.CrossEntropyLoss', 'use_sigmoid': False}

# name -> (loss of the head, its config without the gain, gains)
VARIANTS = {
    'bce': ('loss_cls', BCE, (0.5, 0.125)),
    'softmax': ('loss_cls', SOFTMAX, (0.5, 0.125)),
    'focal': ('loss_cls', {'type': 'mmyolo_ext.FocalLoss', 'loss': BCE}, (0.5, 0.125)),
    'slide': ('loss_cls', {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE, 'follow': 'quality'}, (0.5, 0.125)),
    'softmax + slide': ('loss_cls', {'type': 'mmyolo_ext.SlideLoss', 'loss': SOFTMAX}, (0.5, 0.125)),
    'slide on objectness': ('loss_obj', {'type': 'mmyolo_ext.SlideLoss', 'loss': BCE}, (1.0, 0.5)),
    # not among the class losses: on targets of 0 and 1 it is the focal loss
    'quality focal on objectness': ('loss_obj', {'type': 'mmyolo_ext.QualityFocalLoss', 'loss': BCE}, (4.0, 1.0)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description='Compare the class losses on BCCD')
    parser.add_argument('--only', nargs='+', choices=VARIANTS, default=list(VARIANTS), metavar='LOSS')
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--gains', nargs='+', type=int, default=[0], help='indices of the gains of each loss')
    parser.add_argument('--jobs', type=int, default=1, help='number of parallel trainings, which share the cores')
    parser.add_argument('--work-dir', type=Path, default=ROOT / 'work_dirs/losses')
    parser.add_argument('--report', action='store_true', help='do not train')
    args = parser.parse_args()
    if not args.report:
        train_all(args)
    from losses_report import write_report

    write_report(json.loads(RESULTS.read_text()), ROOT)


def train_all(args: argparse.Namespace) -> None:
    """Run what has no figures yet; seeds in the outer loop, so that an interrupted study compares all losses."""
    todo = [
        (name, VARIANTS[name][2][index], seed)
        for index in args.gains
        for seed in args.seeds
        for name in args.only
        if key(name, VARIANTS[name][2][index], seed) not in done()
    ]
    threads = max((os.cpu_count() or 1) // args.jobs, 1)
    with ThreadPoolExecutor(args.jobs) as pool:
        for entry, figures in pool.map(lambda run: train(*run, args.work_dir, threads), todo):
            keep(entry, figures)
            print(f'{entry}: AP {figures["coco/bbox_mAP"]:.3f}, AP50 {figures["coco/bbox_mAP_50"]:.3f}', flush=True)


def train(name: str, gain: float, seed: int, work_dir: Path, threads: int) -> tuple[str, dict]:
    """One training in a process of its own; what the last test of it printed."""
    entry = key(name, gain, seed)
    folder = work_dir / entry.replace(' ', '_').replace('/', '_')
    folder.mkdir(parents=True, exist_ok=True)
    config = folder / 'config.py'
    config.write_text(config_text(name, gain, seed))
    command = [sys.executable, 'tools/train.py', config, '--amp', '--work-dir', folder / 'run', '--resume']
    environment = {**os.environ, 'OMP_NUM_THREADS': str(threads)}
    with (folder / 'log.txt').open('w') as log:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
    scalars = sorted((folder / 'run').glob('*/vis_data/scalars.json'))
    tests = [row for path in scalars for row in map(json.loads, path.open()) if 'coco/bbox_mAP' in row]
    return entry, {name: value for name, value in tests[-1].items() if name.startswith('coco/')}


def config_text(name: str, gain: float, seed: int) -> str:
    """Return the config of a run: small images and frequent steps, so that 40 epochs of 292 images suffice."""
    slot, loss, _ = VARIANTS[name]
    warmup = {'convert_to_iter_based': True, 'warmup_epochs': 3, 'min_warmup_iters': 100}
    schedule = [
        {'type': 'mmyolo_ext.WarmupLinearLR', **warmup, 'bias_start': 0.1, 'final_factor': 0.01},
        {'type': 'mmyolo_ext.WarmupMomentum', **warmup, 'start': 0.8},
    ]
    # of the recipe for COCO, as when the study began
    hooks = {
        'accumulate': {'nominal_batch_size': 16},
        'ema': {'momentum': 1e-4, 'gamma': 2000},
        'checkpoint': {'interval': 10},
    }
    loss = {'_delete_': True, **with_gain(loss, gain)}
    return '\n'.join(
        [
            f'_base_ = [{str(ROOT / BASE)!r}]',
            f'model = dict(bbox_head=dict({slot}={loss!r}))',
            'input_size = 256',
            'max_epochs = 40',
            'train_cfg = dict(val_interval=40)',
            "optim_wrapper = dict(optimizer=dict(_delete_=True, type='AdamW', lr=0.002, weight_decay=0.05))",
            f'param_scheduler = {schedule!r}',
            f'default_hooks = {hooks!r}',
            'train_dataloader = dict(num_workers=1)',
            'val_dataloader = dict(num_workers=1)',
            f'randomness = dict(seed={seed})',
            '',
        ]
    )


def with_gain(loss: dict, gain: float) -> dict:
    """Add the gain to the innermost loss."""
    return {**loss, 'loss': with_gain(loss['loss'], gain)} if 'loss' in loss else {**loss, 'loss_weight': gain}


def key(name: str, gain: float, seed: int) -> str:
    return f'{name}/{gain:g}/{seed}'


def done() -> dict[str, dict]:
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else {}


def keep(entry: str, figures: dict) -> None:
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    unfinished = RESULTS.with_suffix('.part')
    unfinished.write_text(json.dumps({**done(), entry: figures}, indent=1, sort_keys=True) + '\n')
    unfinished.replace(RESULTS)


if __name__ == '__main__':
    main()
