"""``tools/tune.py``: its errors before anything runs, a search of pretended trainings, and a real one."""

import csv
import runpy
import signal
import sys
from pathlib import Path

import pytest
import torch
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config

SPACE = "space = {'optim_wrapper.optimizer.lr': dict(factor=4), 'train_dataloader...HSVJitter.hue': [0.0, 0.015]}\n"
# one score, in epoch 1, which is the better the farther the rate is from the config's
TRAIN = """
import json, runpy, sys
from pathlib import Path

folder = Path(sys.argv[sys.argv.index('--work-dir') + 1])
lr = runpy.run_path(sys.argv[1])['optim_wrapper']['optimizer']['lr']
scalars = folder / '20000101_000000' / 'vis_data' / 'scalars.json'
scalars.parent.mkdir(parents=True)
scalars.write_text(json.dumps({'coco/bbox_mAP': 0.5 + abs(lr - 0.01), 'step': 1}) + '\\n')
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('tune')
    make_tiny_coco(folder / 'data')
    write_user_config(folder / 'mine.py', folder / 'data')
    (folder / 'space.py').write_text(SPACE)
    (folder / 'train.py').write_text(TRAIN)
    return folder


@pytest.fixture
def tune(folder, tmp_path, monkeypatch, capfd):
    """Run the tool in this process: exit code, output, lines of error."""

    def run(*arguments: object, space: Path | None = None) -> tuple[int, str, list[str]]:
        given = [
            'tune.py',
            folder / 'mine.py',
            '--space',
            space or folder / 'space.py',
            '--work-dir',
            tmp_path / 'work',
        ]
        monkeypatch.setattr(sys, 'argv', [*map(str, given), *map(str, arguments)])
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        code = 0
        try:
            runpy.run_path(str(REPO / 'tools' / 'tune.py'), run_name='__main__')
        except SystemExit as end:
            code = end.code or 0
        said = capfd.readouterr()
        return code, said.out, [line for line in said.err.splitlines() if line.startswith('error: ')]

    before = signal.getsignal(signal.SIGTERM)
    yield run
    signal.signal(signal.SIGTERM, before)


def test_what_is_wrong_is_one_line_before_anything_runs(tune, tmp_path, monkeypatch):
    (tmp_path / 'wrong.py').write_text("space = {'optim_wrapper.optimizer.rate': dict(factor=2)}")
    for arguments, message in (
        ({'space': Path('none.py')}, 'there is no space none.py'),
        ({'space': tmp_path / 'wrong.py'}, "the config has no key 'optim_wrapper.optimizer.rate'"),
        (('--metric', 'coco/mAP'), '--metric must be one of coco/bbox_mAP'),
        (('--trials', 0), '--trials must be 1 or more, got 0'),
        (('--cfg-options', 'optim_wrapper.optimizer.lr=0.1'), 'is in the space and in --cfg-options'),
        (('--epochs', 2, '--cfg-options', 'max_epoch=3'), "did you mean 'max_epochs'"),
    ):
        code, out, errors = tune(**arguments) if isinstance(arguments, dict) else tune(*arguments)
        assert code == 2 and len(errors) == 1 and message in errors[0] and 'trial' not in out
    monkeypatch.setitem(sys.modules, 'optuna', None)
    code, _, errors = tune()
    assert code == 2 and errors[0].startswith("error: this needs the package optuna: pip install 'optuna>=4'")
    assert not list(tmp_path.glob('work/trial_*'))


def test_a_search_and_the_same_command_again(tune, folder, tmp_path, monkeypatch):
    command = 'mmyolo_ext.apis.tuning.search.training_command'
    monkeypatch.setattr(command, lambda script, amp: [sys.executable, str(folder / 'train.py')])
    monkeypatch.setattr('mmyolo_ext.apis.tuning.search.LOOK', 0.02)
    code, out, errors = tune('--trials', 3, '--epochs', 1)
    assert code == 0 and errors == []
    assert '3 trials of 1 epochs, 1 validations each' in out and 'nothing can be pruned' in out
    assert 'optim_wrapper.optimizer.lr: 0.0025 to 0.04 evenly over orders of magnitude; now 0.01' in out
    assert 'train_dataloader...HSVJitter.hue: of [0.0, 0.015]; now 0.015' in out
    assert 'trial 0 (the config as it stands): coco/bbox_mAP 0.5000' in out and '2 to come' in out
    work = tmp_path / 'work'
    best = max(csv.DictReader((work / 'trials.csv').open()), key=lambda row: float(row['score']))
    rate = float(best['optim_wrapper.optimizer.lr'])
    assert float(best['score']) == 0.5 + abs(rate - 0.01) > 0.5
    assert load_config(work / 'best.py').optim_wrapper.optimizer.lr == rate
    assert f'written: {work}/history.png' in out and f'written: {work}/best.py' in out
    code, again, _ = tune('--trials', 3, '--epochs', 1)
    assert code == 0 and 'trial 0 (' not in again and again.splitlines()[-4:] == out.splitlines()[-4:]
    code, _, errors = tune('--trials', 3, '--epochs', 2)
    assert code == 2 and 'holds another search: config train_cfg.max_epochs was 1, now 2' in errors[0]


@pytest.mark.slow
def test_two_real_trainings(tune, tmp_path):
    code, out, errors = tune('--trials', 2, '--epochs', 1)
    assert code == 0 and errors == [], (tmp_path / 'work' / 'trial_000' / 'train.log').read_text()[-2000:]
    work = tmp_path / 'work'
    rows = list(csv.DictReader((work / 'trials.csv').open()))
    assert [row['state'] for row in rows] == ['done', 'done'] and float(rows[0]['optim_wrapper.optimizer.lr']) == 0.01
    assert all(0 <= float(row['score']) <= 1 for row in rows)
    # one trial's checkpoint is left, and it can be read
    (kept,) = work.glob('trial_*/*.pth')
    assert kept.name.startswith('best_coco_bbox_mAP') and 'state_dict' in torch.load(kept, weights_only=False)
    assert (work / 'slices.png').exists()
    (trained,) = work.glob('trial_001/*/vis_data/config.py')  # as MMEngine had it
    cfg = load_config(trained)
    assert cfg.optim_wrapper.optimizer.lr == float(rows[1]['optim_wrapper.optimizer.lr']) != 0.01
    assert cfg.train_cfg.max_epochs == 1
