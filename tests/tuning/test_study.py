"""Studies: what trial 0 is, what is written, and how a study continues after each kind of interruption."""

import csv
import runpy
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from fake_runner import LR, make_tuner
from forked import run_python
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config

SCRIPT = Path(__file__).with_name('fake_runner.py')


def rows(folder: Path) -> list[dict]:
    with (folder / 'study' / 'trials.csv').open() as file:
        return list(csv.DictReader(file))


def test_a_study_finds_a_better_rate_and_continues(tmp_path, capsys):
    tuner = make_tuner(tmp_path)
    tuner.run(8)
    files = {file.name for file in tuner.write()}
    table = rows(tmp_path)
    # the config's rate of 0.01 is one decade from the best: 0.8 - 0.1
    assert float(table[0][LR]) == 0.01 and float(table[0]['coco/bbox_mAP']) == pytest.approx(0.7)
    assert [int(row['trial']) for row in table] == list(range(8))
    best = max((row for row in table if row['state'] == 'COMPLETE'), key=lambda row: float(row['coco/bbox_mAP']))
    assert float(best['coco/bbox_mAP']) > 0.7
    assert load_config(tmp_path / 'study' / 'best.py').optim_wrapper.optimizer.lr == float(best[LR])
    assert {'trials.csv', 'best.py', 'history.png', 'slices.png', 'epochs.png'} <= files
    kept = {file.parent.name for file in (tmp_path / 'study').glob('trial_*/*.pth')}
    assert kept == {f'trial_{int(best["trial"]):03}'}
    make_tuner(tmp_path).run(8)
    assert rows(tmp_path) == table, 'nothing is left to do'
    make_tuner(tmp_path).run(9)
    assert [row[LR] for row in rows(tmp_path)[:8]] == [row[LR] for row in table] and len(rows(tmp_path)) == 9
    assert 'trial 0: complete coco/bbox_mAP 0.7000' in capsys.readouterr().out


def test_failed_trials_say_why_and_the_study_goes_on(tmp_path):
    tuner = make_tuner(tmp_path)
    for rate in (0.01, 0.6, 0.4, 0.1):
        tuner.study.enqueue_trial({LR: rate})
    tuner.run(4)
    table = rows(tmp_path)
    assert [row['state'] for row in table] == ['COMPLETE', 'FAIL', 'FAIL', 'COMPLETE']
    assert table[1]['error'] == 'CUDA out of memory'
    assert table[2]['error'] == 'validation gave no finite coco/bbox_mAP'
    assert tuner.best.number == 3 and tuner.best.value == pytest.approx(0.8)


def test_the_pruner_stops_what_is_below_the_median(tmp_path):
    tuner = make_tuner(tmp_path)
    for rate in (0.01, 0.02, 0.05, 0.1, 1e-4):
        tuner.study.enqueue_trial({LR: rate})
    tuner.run(5)
    last = rows(tmp_path)[-1]
    # four completed trials are needed, and a third of six epochs
    assert last['state'] == 'PRUNED' and last['epochs'] == '2'


def test_a_config_that_cannot_be_trained_ends_the_study(tmp_path):
    tuner = make_tuner(tmp_path)
    tuner.study.enqueue_trial({LR: 0.9})
    with pytest.raises(ValueError, match='the config as it is cannot be trained: CUDA out of memory'):
        tuner.run(3)
    assert len(tuner.study.trials) == 1


def test_other_settings_or_an_unknown_metric_are_refused(tmp_path):
    make_tuner(tmp_path).run(1)
    with pytest.raises(ValueError, match='train_cfg.max_epochs was 6, is 3; choose another --work-dir'):
        make_tuner(tmp_path, epochs=3)
    with pytest.raises(ValueError, match='cannot be trained: validation reports no .coco/mAP.'):
        make_tuner(tmp_path / 'other', metric='coco/mAP').run(1)
    with pytest.raises(ValueError, match='is both in the space and in the options'):
        make_tuner(tmp_path / 'third', cfg_options={LR: 0.1})


def test_without_optuna_the_error_names_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'optuna', None)
    with pytest.raises(ValueError, match="pip install 'optuna>=5'"):
        make_tuner(tmp_path)


@pytest.mark.parametrize('name', ['SIGKILL', 'SIGINT'])
def test_an_interrupted_trial_is_retried_from_its_checkpoint(tmp_path, name):
    first = run_python(SCRIPT, tmp_path, '3', DIE_IN=f'trial_001 3 {name}')
    assert first.returncode in (-signal.SIGKILL, 1), first.stderr
    starts = tmp_path / 'study' / 'trial_001' / 'starts.txt'
    (begun,) = starts.read_text().splitlines()
    tuner = make_tuner(tmp_path)
    deadline = time.monotonic() + 60
    while name == 'SIGKILL' and not tuner.study._storage._get_stale_trial_ids(tuner.study._study_id):
        assert time.monotonic() < deadline, 'the dead trial never became stale'
    tuner.run(3)
    # the same rate, after the three epochs that were saved
    assert starts.read_text().splitlines() == [begun, f'3 {begun.split()[1]}']
    states = [row['state'] for row in rows(tmp_path)]
    assert states.count('COMPLETE') + states.count('PRUNED') == 3 and states.count('FAIL') == 1
    assert len(list((tmp_path / 'study').glob('trial_*'))) == 3


@pytest.mark.parametrize('storage', ['sqlite', 'journal'])
def test_two_processes_share_a_study(tmp_path, storage):
    storage = f'sqlite:///{tmp_path}/shared.db' if storage == 'sqlite' else f'{tmp_path}/shared.journal'
    make_tuner(tmp_path, storage=storage)  # creates it
    # none of the two may take the other for dead where a processor is shared
    with ThreadPoolExecutor(2) as threads:
        processes = [threads.submit(run_python, SCRIPT, tmp_path, '6', storage, GRACE='60') for _ in range(2)]
    assert [process.result().returncode for process in processes] == [0, 0]
    trials = make_tuner(tmp_path, storage=storage).study.trials
    assert 6 <= len(trials) <= 7, 'the second process may have started one when the first ended the sixth'
    assert len({trial.params[LR] for trial in trials}) == len(trials)


def run_tool(monkeypatch, capsys, *arguments: object) -> tuple[int, str, str]:
    monkeypatch.setattr(sys, 'argv', ['tune.py', *map(str, arguments)])
    code = 0
    try:
        runpy.run_path(str(REPO / 'tools' / 'tune.py'), run_name='__main__')
    except SystemExit as end:
        code = end.code or 0
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow
def test_the_tool_trains_two_real_trials(tmp_path, monkeypatch, capsys):
    make_tiny_coco(tmp_path / 'data')
    config = write_user_config(tmp_path / 'mine.py', tmp_path / 'data')
    (tmp_path / 'space.py').write_text(f'space = {{{LR!r}: dict(factor=4)}}')
    common = (config, '--space', tmp_path / 'space.py', '--work-dir', tmp_path / 'study')
    code, _, errors = run_tool(monkeypatch, capsys, *common, '--trials', 0)
    assert code == 2 and 'error: --trials must be at least 1, got 0' in errors
    code, out, errors = run_tool(monkeypatch, capsys, *common, '--trials', 2, '--epochs', 1)
    assert code == 0, errors
    assert 'trial 1: complete coco/bbox_mAP 0.' in out and f'wrote {tmp_path}/study/trials.csv' in out
    assert [row['state'] for row in rows(tmp_path)] == ['COMPLETE'] * 2
    trained = load_config(next((tmp_path / 'study' / 'trial_001').glob('*/vis_data/config.py')))
    rate = trained.optim_wrapper.optimizer.lr
    assert rate == float(rows(tmp_path)[1][LR]) and 0.0025 <= rate <= 0.04
