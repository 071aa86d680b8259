"""``tools/tune.py``: its errors before anything runs, searches of pretended trainings, and a real one."""

import csv
import re
import runpy
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.tuning.memory import open_study

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

# Two epochs, of 0.25 and 0.5. After the first one of trial 1, the search gets the signal that is named first.
INTERRUPT = """
import json, os, signal, sys, time
from pathlib import Path

name, config, folder = sys.argv[1], sys.argv[2], Path(sys.argv[sys.argv.index('--work-dir') + 1])
last = folder / 'last_checkpoint'
done = int(last.read_text()[-5]) if last.exists() else 0
for epoch in range(done + 1, 3):
    (folder / f'epoch_{epoch}.pth').write_bytes(b'\\x80')
    last.write_text(str(folder / f'epoch_{epoch}.pth'))
    scalars = folder / f'20000101_00000{done}' / 'vis_data' / 'scalars.json'
    scalars.parent.mkdir(parents=True, exist_ok=True)
    with scalars.open('a') as file:
        file.write(json.dumps({'coco/bbox_mAP': epoch / 4, 'step': epoch}) + '\\n')
    if folder.name == 'trial_001' and not done:
        Path(folder / 'process').write_text(str(os.getpid()))
        os.kill(os.getppid(), getattr(signal, name))
        time.sleep(100)
"""
# the tool in a process of its own, which may be killed
ALONE = """
import runpy, sys
from mmyolo_ext.apis.tuning import search

tool, train, name, *arguments = sys.argv[1:]
search.training_command = lambda script, amp: [sys.executable, train, name]
search.LOOK = 0.02
sys.argv = [tool, *arguments]
runpy.run_path(tool, run_name='__main__')
"""


@pytest.fixture(scope='module')
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('tune')
    make_tiny_coco(folder / 'data')
    write_user_config(folder / 'mine.py', folder / 'data')
    (folder / 'space.py').write_text(SPACE)
    (folder / 'train.py').write_text(TRAIN)
    (folder / 'interrupt.py').write_text(INTERRUPT)
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

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    yield run
    for number, handler in before.items():
        signal.signal(number, handler)


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


def test_the_page_names_options_that_there_are(tune):
    page = (REPO / 'docs' / 'tuning.md').read_text()
    _, out, _ = tune('--help')
    there = set(re.findall(r'--[a-z-]+', out))
    named = set(re.findall(r'--[a-z][a-z-]+', page))
    assert {'--space', '--trials', '--epochs', '--metric', '--pruner', '--jobs', '--timeout'} <= named <= there
    # files that the page speaks of, and pruners
    for name in re.findall(r'`(configs/[\w/]+\.py)`|--space (configs/\S+)|tune\.py (configs/\S+)', page):
        assert (REPO / ''.join(name)).is_file()
    assert all(f'`{name}`' in page or f'--pruner {name}`' in page for name in ('median', 'hyperband', 'none'))


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


@pytest.mark.parametrize('name', ['SIGTERM', 'SIGKILL'])
def test_the_same_command_goes_on_whatever_ended_the_search(tune, folder, tmp_path, monkeypatch, name):
    train, work = folder / 'interrupt.py', tmp_path / 'work'
    monkeypatch.setattr('mmyolo_ext.apis.tuning.search.LOOK', 0.02)
    command = 'mmyolo_ext.apis.tuning.search.training_command'
    monkeypatch.setattr(command, lambda script, amp: [sys.executable, str(train), name])
    monkeypatch.setattr('mmyolo_ext.apis.tuning.plots.draw_all', lambda *_: [])  # takes long
    effort = ('--trials', 3, '--epochs', 2)
    if name == 'SIGKILL':
        tool = [REPO / 'tools' / 'tune.py', train, name, folder / 'mine.py', '--space', folder / 'space.py']
        alone = [sys.executable, '-c', ALONE, *tool, '--work-dir', work, *effort]
        assert subprocess.run(list(map(str, alone)), check=False, capture_output=True).returncode == -signal.SIGKILL
    else:
        code, out, _ = tune(*effort)
        assert code == 130 and 'to go on' in out
        assert [row['state'] for row in csv.DictReader((work / 'trials.csv').open())] == ['done', 'to go on']
    process = int((work / 'trial_001' / 'process').read_text())
    values = (work / 'trial_001' / 'values.py').read_text()
    assert is_alive(process) == (name == 'SIGKILL')
    code, out, errors = tune(*effort)
    assert code == 0 and errors == [] and not is_alive(process)
    assert 'interrupted before and taken up again: trial 1' in out and 'trial 0 (' not in out
    assert (f'left trainings behind: process {process}; ended' in out) == (name == 'SIGKILL')
    rows = list(csv.DictReader((work / 'trials.csv').open()))
    assert [(row['state'], row['score'], row['last_epoch']) for row in rows] == [('done', '0.5', '2')] * 3
    assert (work / 'trial_001' / 'values.py').read_text() == values
    assert (work / 'trial_001' / '20000101_000001').exists()  # from the checkpoint of epoch 1
    # to Optuna the start that was broken off is a trial that failed
    states = [trial.state.name for trial in open_study(work, 'maximize').trials]
    assert sorted(states) == ['COMPLETE'] * 3 + ['FAIL']


def is_alive(process: int) -> bool:
    try:
        return Path(f'/proc/{process}/stat').read_text().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


def test_a_closed_terminal_ends_it_as_ctrl_c_does_but_not_under_nohup(tune):
    for before, after in ((signal.SIG_DFL, signal.default_int_handler), (signal.SIG_IGN, signal.SIG_IGN)):
        signal.signal(signal.SIGHUP, before)
        assert tune('--metric', 'coco/mAP')[0] == 2
        assert signal.getsignal(signal.SIGHUP) is after


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
