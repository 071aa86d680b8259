"""A config with nothing to train, a script that pretends to train it, and searches on them."""

import sys
from pathlib import Path

from mmyolo_ext.apis.tuning import search as search_module
from mmyolo_ext.apis.tuning.memory import RUN, check_identity, encode
from mmyolo_ext.apis.tuning.plan import Effort, Plan, make_plan
from mmyolo_ext.apis.tuning.search import Search

CONFIG = """
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.01, momentum=0.9, betas=(0.9, 0.999)))
model = dict(head=dict(loss_cls=dict(loss_weight=0.5), loss_obj=dict(loss_weight=1.0), mode='ciou'))
train_cfg = dict(max_epochs=6, val_interval=1)
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type='Outer',
        dataset=dict(
            type='Inner',
            data_root='data',
            pipeline=[dict(type='my.Affine', scale=0.5), dict(type='my.Flip', prob=0.5)],
        ),
    ),
)
val_dataloader = dict(batch_size=4, dataset=dict(type='Inner', pipeline=[dict(type='my.Affine', scale=0.5)]))
val_cfg = dict()
val_evaluator = dict(type='CocoMetric')
default_hooks = dict(checkpoint=dict(type='CheckpointHook', interval=1, save_best='coco/bbox_mAP'))
"""
SPACE = """
space = {
    'optim_wrapper.optimizer.lr': dict(low=1e-4, high=1.0, log=True),
    'train_dataloader...Affine.scale': dict(low=0.0, high=0.9),
    'model.head.mode': ['ciou', 'siou'],
}
"""
# The score rises towards 0.8 - 0.1 |log10(lr / 0.1)|: 0.7 for lr 0.01. Above lr 0.5 it crashes, above 0.3 the loss is
# NaN. At 0.0001 it hangs after epoch 3, so that only being pruned ends it; at a scale of 0.125 it hangs after epoch 2
# unless there is a checkpoint to go on from, at 0.375 before the last score, likewise; at 0.0625 the score is NaN.
TRAIN = """
import json, math, runpy, sys, time
from pathlib import Path

config, folder = sys.argv[1], Path(sys.argv[sys.argv.index('--work-dir') + 1])
assert '--resume' in sys.argv
cfg = runpy.run_path(config)
lr, epochs = cfg['optim_wrapper']['optimizer']['lr'], cfg['train_cfg']['max_epochs']
scale = cfg['train_dataloader']['dataset']['dataset']['pipeline'][0]['scale']
if lr == 0.45:  # as mmdet's CheckInvalidLossHook ends it
    print('loss become infinite or NaN!', 'AssertionError: None', sep='\\n')
    sys.exit(1)
if lr > 0.5:
    print('Traceback (most recent call last):', 'torch.OutOfMemoryError: CUDA out of memory.', sep='\\n')
    sys.exit(1)
last = folder / 'last_checkpoint'
done = int(Path(last.read_text()).stem.split('_')[1]) if last.exists() else 0
scalars = folder / f'2000010{len(list(folder.glob("2*")))}_000000' / 'vis_data' / 'scalars.json'
scalars.parent.mkdir(parents=True)
rows = ''
for epoch in range(done + 1, epochs + 1):
    (folder / f'epoch_{epoch}.pth').write_bytes(b'\\x80')  # as a pickle starts
    (folder / f'epoch_{epoch - 2}.pth').unlink(missing_ok=True)
    last.write_text(str(folder / f'epoch_{epoch}.pth'))
    if scale == 0.375 and epoch == epochs and not done:
        time.sleep(100)
    (folder / f'best_coco_bbox_mAP_epoch_{epoch}.pth').write_text('')
    score = math.nan if scale == 0.0625 else (0.8 - 0.1 * abs(math.log10(lr / 0.1))) * epoch / epochs
    loss = math.nan if lr > 0.3 else 1.0
    rows += json.dumps({'loss': loss, 'lr': lr, 'epoch': epoch, 'step': epoch}) + '\\n'
    rows += json.dumps({'coco/bbox_mAP': score, 'data_time': 0.1, 'step': epoch}) + '\\n'
    if lr != 0.0001 or epoch >= 3:  # before, it would be pruned at once
        with scalars.open('a') as file:
            file.write(rows)
        rows = ''
    if lr == 0.0001 and epoch == 3 or scale == 0.125 and epoch == 2:
        time.sleep(100)
"""
LR, SCALE, MODE = 'optim_wrapper.optimizer.lr', 'train_dataloader...Affine.scale', 'model.head.mode'


def write_case(folder: Path) -> Path:
    """``config.py``, ``space.py``, ``train.py``."""
    for name, text in (('config', CONFIG), ('space', SPACE), ('train', TRAIN)):
        (folder / f'{name}.py').write_text(text)
    return folder


def plan_of(case: Path, work_dir: Path, **arguments) -> Plan:
    work_dir.mkdir(exist_ok=True)
    return make_plan(case / 'config.py', case / 'space.py', work_dir, **arguments)


def search_of(case: Path, work_dir: Path, trials: int, plan: Plan | None = None, **effort) -> Search:
    """A search that looks at its trainings often."""
    search_module.LOOK = 0.02
    plan = plan or plan_of(case, work_dir)
    check_identity(work_dir, plan.identity)
    return Search(plan, Effort(trials, **effort), work_dir, [sys.executable, str(case / 'train.py')])


def queue(search: Search, *settings: dict) -> None:
    """Let these be the first runs, each other than the config's own values in what it says."""
    for number, changed in enumerate(settings):
        values = {key: encode(one, changed.get(key, one.present)) for key, one in search.plan.space.items()}
        search.study.enqueue_trial(values, user_attrs={RUN: number})
