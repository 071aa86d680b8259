"""A search over trainings that only pretend: what it tries, ends, keeps, writes, and goes on with."""

import csv
import json
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tuning_case import LR, MODE, SCALE, SPACE, plan_of, queue, search_of, write_case

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.tuning import memory
from mmyolo_ext.apis.tuning.importance import by_rank, correlations, importance_of
from mmyolo_ext.apis.tuning.memory import Run, best_of, check_identity
from mmyolo_ext.apis.tuning.plan import Effort
from mmyolo_ext.apis.tuning.plots import draw_all
from mmyolo_ext.apis.tuning.report import csv_text, table, write_files
from mmyolo_ext.apis.tuning.search import environment, make_pruner
from mmyolo_ext.apis.tuning.training import Training, read_scores
from mmyolo_ext.apis.tuning.words import duration, ended

METRIC = 'coco/bbox_mAP'


@pytest.fixture
def case(tmp_path) -> Path:
    return write_case(tmp_path)


def checkpoints(folder: Path) -> dict[str, list[str]]:
    return {run.name: sorted(file.name for file in run.glob('*.pth')) for run in sorted(folder.glob('trial_*'))}


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    """A search of seven runs: as it stands, worse, better, out of memory, NaN, hanging ones that must be pruned."""
    case = write_case(tmp_path_factory.mktemp('search'))
    search = search_of(case, case / 'work', trials=7)
    changes = [{LR: 0.005}, {LR: 0.05, SCALE: 0.25, MODE: 'siou'}, {LR: 0.02}, {LR: 0.6}, {LR: 0.4}, {LR: 0.0001}]
    queue(search, {}, *changes)
    assert search.go() is True
    return case, search, search.runs()


def test_each_run_ends_as_it_must(finished):
    runs = finished[2]
    assert [run.number for run in runs] == list(range(7))
    assert [run.state for run in runs] == ['done', 'done', 'done', 'done', 'failed', 'failed', 'pruned']
    # 0.8 - 0.1 |log10(lr / 0.1)|: 0.7, 0.8 - 0.13010, 0.8 - 0.03010, 0.8 - 0.06990
    assert [run.score for run in runs[:4]] == pytest.approx([0.7, 0.66990, 0.76990, 0.73010], abs=1e-5)
    assert runs[0].values == {LR: 0.01, SCALE: 0.5, MODE: 'ciou'}
    assert runs[2].values == {LR: 0.05, SCALE: 0.25, MODE: 'siou'}
    assert runs[0].curve == pytest.approx({epoch: 0.7 * epoch / 6 for epoch in range(1, 7)})
    assert runs[4].reason == 'out of memory: torch.OutOfMemoryError: CUDA out of memory.'
    assert runs[5].reason == 'the loss is nan in epoch 1' and runs[5].score is None
    # it hung after epoch 3 at 0.5 * 3/6, below the median of the four before it
    assert max(runs[6].curve) == 3 and runs[6].score == pytest.approx(0.25)
    assert not runs[6].reason and all(run.seconds > 0 for run in runs)
    assert best_of(runs, True).number == 2 and best_of(runs, False).number == 1


def test_only_the_best_checkpoint_is_kept(finished):
    kept = checkpoints(finished[0] / 'work')
    assert kept.pop('trial_002') == ['best_coco_bbox_mAP_epoch_6.pth']
    assert kept == dict.fromkeys(kept, []) and len(kept) == 6
    assert not list((finished[0] / 'work').glob('*/last_checkpoint'))


def test_a_training_gets_the_values_and_the_rest_of_the_config(finished):
    case, search, _ = finished
    cfg = load_config(case / 'work' / 'trial_002' / 'config.py')
    assert cfg.optim_wrapper.optimizer.lr == 0.05 and cfg.model.head.mode == 'siou'
    assert cfg.train_dataloader.dataset.dataset.pipeline[0].scale == 0.25
    assert cfg.val_dataloader.dataset.pipeline[0].scale == 0.5  # training's alone was meant
    assert cfg.randomness.seed == 0 and cfg.default_hooks.checkpoint.max_keep_ckpts == 2
    assert cfg.default_hooks.checkpoint.save_best == METRIC
    assert {'type': 'LocalVisBackend'} in cfg.visualizer.vis_backends  # which the search reads
    plan = plan_of(case, case / 'other', epochs=3, seed=5, options={'train_dataloader.batch_size': 2})
    assert (plan.length, plan.validations, plan.unit, plan.seed) == (3, 3, 'epoch', 5)
    assert (
        plan.identity['config randomness.seed'] == '5' and plan.identity['config train_dataloader.batch_size'] == '2'
    )


def test_what_is_written(finished):
    case, search, runs = finished
    files = write_files(runs, search.plan, case / 'work')
    assert [file.name for file in files] == ['trials.csv', 'best.py']
    text = files[1].read_text()
    assert f'# Written by tools/tune.py: {METRIC} 0.7699, 0.7000 as it stood; trial 2 of 7.' in text
    best = load_config(files[1])
    assert (best.optim_wrapper.optimizer.lr, best.model.head.mode) == (0.05, 'siou')
    assert best.train_dataloader.dataset.dataset.pipeline[0].scale == 0.25 and best.train_cfg.max_epochs == 6
    assert 'randomness' not in best  # of the search, not of what was found
    rows = list(csv.DictReader(files[0].open()))
    assert [row['state'] for row in rows] == [run.state for run in runs]
    assert rows[2][LR] == '0.05' and rows[4]['reason'] == runs[4].reason and rows[6]['last_epoch'] == '3'
    assert float(rows[2]['score']) == runs[2].score and rows[4]['score'] == ''
    lines = table(runs, search.plan).splitlines()
    assert lines[0].split() == ['trial', 'state', 'score', 'gain', 'epochs', 'lr', 'Affine.scale', 'mode']
    assert [line.split()[0] for line in lines[1:]] == ['2', '3', '0', '1', '6', '4', '5']
    assert lines[1].split()[:5] == ['2', 'done', '0.7699', '+0.0699', '6'] and lines[-1].endswith('nan in epoch 1')
    # nothing better than the config as it stands: no config
    assert [file.name for file in write_files(runs[:2], search.plan, case)] == ['trials.csv']


@pytest.mark.parametrize(
    ('length', 'validations', 'first'),
    # a third, rounded up; two validations
    [(6, 6, 2), (20, 20, 7), (4, 4, 2), (3, 3, 2), (20, 4, 10), (90, 9, 30), (40, 8, 14)],
)
def test_nothing_is_pruned_by_its_first_validation(finished, length, validations, first):
    import optuna

    plan = finished[1].plan._replace(length=length, validations=validations)
    study = optuna.create_study(direction='maximize', pruner=make_pruner('median', plan))
    for _ in range(4):
        trial = study.ask()
        for step in range(1, length + 1):
            trial.report(0.5, step)
        study.tell(trial, 0.5)
    trial = study.ask()
    for step in (first - 1, first):
        trial.report(0.1, step)
        assert trial.should_prune() == (step >= first)


def test_one_line_on_each_run(finished):
    plan, runs = finished[1].plan, [run._replace(seconds=100.0) for run in finished[2]]
    effort = Effort(trials=9, jobs=2)
    # 9 - 7 to come on two at once is one round
    assert ended(runs, 0, plan, effort) == (
        f'trial 0 (the config as it stands): {METRIC} 0.7000, 2 min; 2 to come, 2 min at most'
    )
    assert ended(runs, 2, plan, effort).startswith(f'trial 2: {METRIC} 0.7699 (+0.0699), the best so far, 2 min;')
    assert ended(runs, 6, plan, effort).startswith('trial 6: pruned at 3 of 6 with 0.2500')
    assert ended(runs, 4, plan, effort).startswith('trial 4: failed: out of memory')
    assert [duration(seconds) for seconds in (7, 150, 12000)] == ['7 s', '2 min', '3 h 20 min']


def test_the_pictures(finished, tmp_path, monkeypatch):
    search, runs = finished[1:]
    assert importance_of(runs, search.plan.space, True) is None  # of five trials
    more = [
        Run(10 + number, 'done', 0.5 + 0.01 * number, {**runs[0].values, LR: 0.001 * 1.2**number}, {6: 0.5}, 1.0, '')
        for number in range(20)
    ]
    importance = importance_of([*runs, *more], search.plan.space, True)
    assert importance.title.endswith('from 25 trials') and sum(importance.shares.values()) == pytest.approx(1)
    assert max(importance.shares, key=importance.shares.get) == LR and importance.shares[LR] > 0.5
    files = draw_all([*runs, *more], search.plan, importance, tmp_path)
    monkeypatch.setattr('mmyolo_ext.apis.tuning.importance.find_spec', lambda name: None)  # as without scikit-learn
    other = importance_of([*runs, *more], search.plan.space, True)
    assert 'correlations' in other.meaning and max(other.shares, key=other.shares.get) == LR
    assert [file.name for file in files] == ['history.png', 'slices.png', 'importance.png']
    assert all(file.read_bytes().startswith(b'\x89PNG') for file in files)
    assert draw_all(runs[4:6], search.plan, None, tmp_path) == []  # no score
    assert len(draw_all(runs[:1], search.plan, None, tmp_path)) == 2


def test_correlations_by_hand(finished):
    space = finished[1].plan.space
    settings = [(0.01, 0.5, 'ciou'), (0.02, 0.5, 'ciou'), (0.04, 0.5, 'siou'), (0.03, 0.5, 'siou')]
    ranked = [Run(0, 'done', 0.5, dict(zip((LR, SCALE, MODE), one, strict=True)), {}, 1.0, '') for one in settings]
    # Spearman: 1 - 6 * (0 + 0 + 1 + 1) / (4 * 15) = 0.8; one value: 0; ranks 0 1 | 2 3 of mean 1.5: between the groups
    # 2 * 1 + 2 * 1 = 4 of 1.5^2 + 0.5^2 + 0.5^2 + 1.5^2 = 5, eta = sqrt(0.8)
    total = 0.8 + 0.8**0.5
    assert correlations(ranked, space) == pytest.approx({LR: 0.8 / total, SCALE: 0.0, MODE: 0.8**0.5 / total})


def test_pruned_trials_rank_below_by_how_long_they_lasted():
    def run(number: int, state: str, score: float | None, curve: dict) -> Run:
        return Run(number, state, score, {}, curve, 1.0, '')

    runs = [
        run(0, 'done', 0.2, {9: 0.2}),
        run(1, 'pruned', 0.5, {1: 0.5}),
        run(2, 'pruned', 0.4, {1: 0.1, 2: 0.4}),
        run(3, 'failed', None, {}),
        run(4, 'pruned', 0.3, {2: 0.3}),
        run(5, 'done', 0.7, {9: 0.7}),
    ]
    assert [run.number for run in by_rank(runs, True)] == [1, 4, 2, 0, 5]
    assert [run.number for run in by_rank(runs, False)] == [1, 2, 4, 5, 0]


def test_going_on_equals_never_having_stopped(case, monkeypatch):
    monkeypatch.setattr('mmyolo_ext.apis.tuning.search.AT_RANDOM', 3)  # two are drawn, two follow the sampler
    whole = search_of(case, case / 'whole', trials=5)
    assert whole.go()
    parts = search_of(case, case / 'parts', trials=2)
    assert parts.go()
    told = []
    again = search_of(case, case / 'parts', trials=5)
    again._after_each = lambda runs: told.append(len(runs))
    assert again.go() and told == [3, 4, 5]
    assert [run.values for run in again.runs()] == [run.values for run in whole.runs()]
    assert len({run.values[LR] for run in whole.runs()}) == 5
    # nothing is left to do
    assert search_of(case, case / 'parts', trials=5).go() and len(again.runs()) == 5


def test_an_interrupted_run_goes_on_from_its_checkpoint(case, capsys):
    work = case / 'work'
    search = search_of(case, work, trials=2)
    queue(search, {}, {SCALE: 0.125})  # hangs after epoch 2
    look, processes = search._look, []

    def look_and_interrupt(active):
        look(active)
        if active.number == 1 and len(active.seen) == 2:
            processes.append(active.training)
            raise KeyboardInterrupt

    search._look = look_and_interrupt
    with pytest.raises(KeyboardInterrupt):
        search.go()
    assert processes[0].poll() == -signal.SIGTERM
    assert [run.state for run in search.runs()] == ['done', 'running']
    assert 'epoch_2.pth' in checkpoints(work)['trial_001']
    # what a process that was killed while writing leaves
    with (work / memory.JOURNAL).open('a') as file:
        file.write('{"op_code": 5, "tri')
    (work / f'{memory.JOURNAL}.lock').touch()
    again = search_of(case, work, trials=2)
    assert again.go()
    assert 'interrupted before and taken up again: trial 1' in capsys.readouterr().out
    runs = again.runs()
    assert [(run.number, run.state) for run in runs] == [(0, 'done'), (1, 'done')]
    assert list(runs[1].curve) == [1, 2, 3, 4, 5, 6] and runs[1].values[SCALE] == 0.125
    rows = [path.read_text().splitlines() for path in sorted(work.glob('trial_001/*/vis_data/scalars.json'))]
    assert [len(lines) for lines in rows] == [2 * 2, 2 * 4]  # epochs 1 and 2, then 3 to 6


def test_a_search_ends_when_its_time_is_over(case):
    search = search_of(case, case / 'work', trials=3, hours=0.0)
    assert search.go() is False and search._active == []
    assert [run.state for run in search.runs()] == ['running']


def test_a_config_that_cannot_be_trained_ends_the_search(case):
    config = case / 'config.py'
    good = config.read_text()
    config.write_text(good.replace('lr=0.01', 'lr=0.6'))
    with pytest.raises(
        ValueError, match='the config as it stands, trial 0, cannot be trained: out of memory.*train.log'
    ):
        search_of(case, case / 'work', trials=3).go()
    assert not (case / 'work' / 'trials.csv').exists()
    # mended, it starts anew in the same folder, for nothing was reached
    config.write_text(good)
    search = search_of(case, case / 'work', trials=1)
    assert search.go() and [run.state for run in search.runs()] == ['done']


@pytest.mark.parametrize(
    ('lr', 'reason'), [(0.4, 'the loss is nan in epoch 1'), (0.45, 'the loss is NaN or infinite')]
)
def test_a_config_that_diverges_is_searched_for_a_better_rate(case, lr, reason):
    config = case / 'config.py'
    config.write_text(config.read_text().replace('lr=0.01', f'lr={lr}'))
    search = search_of(case, case / 'work', trials=2)
    queue(search, {}, {LR: 0.01})
    assert search.go()
    assert [(run.state, run.reason) for run in search.runs()] == [('failed', reason), ('done', '')]


def test_a_metric_that_is_not_reported(case):
    plan = plan_of(case, case / 'work', metric='coco/bbox_mAP_50')
    with pytest.raises(ValueError, match="no 'coco/bbox_mAP_50': --metric must be one of coco/bbox_mAP;"):
        search_of(case, case / 'work', 2, plan).go()
    with pytest.raises(
        ValueError, match="reports no 'coco/box': --metric must be one of coco/bbox_mAP, coco/bbox_mAP_50"
    ):
        plan_of(case, case / 'work', metric='coco/box')
    (case / 'config.py').write_text((case / 'config.py').read_text() + 'val_evaluator = None\n')
    with pytest.raises(ValueError, match='the config has no val_evaluator'):
        plan_of(case, case / 'work')


def test_a_score_that_is_no_number_fails_its_trial_alone(case):
    search = search_of(case, case / 'work', trials=2)
    queue(search, {}, {SCALE: 0.0625})
    assert search.go()
    assert [(run.state, run.reason) for run in search.runs()] == [
        ('done', ''),
        ('failed', 'validation gave no number'),
    ]


def test_another_search_in_the_same_folder_is_refused(case):
    work = case / 'work'
    assert search_of(case, work, trials=1).go()
    for change, message in (
        (('config', 'momentum=0.9', 'momentum=0.8'), 'config optim_wrapper.optimizer.momentum was 0.9, now 0.8'),
        (('space', 'high=0.9', 'high=0.8'), r'Affine.scale was 0.0 to 0.9, now 0.0 to 0.8'),
        (('space', "'model.head", "# 'model.head"), r'space model.head.mode was \["ciou", "siou"\], now -'),
    ):
        (case / 'work' / 'trials.csv').touch()
        name, old, new = change
        file = case / f'{name}.py'
        before = file.read_text()
        file.write_text(before.replace(old, new))
        with pytest.raises(ValueError, match=message) as error:
            search_of(case, work, trials=1)
        assert 'holds another search' in str(error.value) and '--work-dir' in str(error.value)
        file.write_text(before)
    check_identity(work, plan_of(case, work).identity)


def test_options_that_contradict_the_space(case):
    with pytest.raises(ValueError, match='in the space and in --cfg-options'):
        plan_of(case, case / 'work', options={LR: 0.1})
    (case / 'space.py').write_text(
        SPACE.replace(f"'{MODE}': ['ciou', 'siou']", "'max_epochs': dict(choices=[3, 6], default=6)")
    )
    with pytest.raises(ValueError, match='leave --epochs out'):
        plan_of(case, case / 'work', epochs=3)


def test_two_at_once_and_less_is_better(case):
    plan = plan_of(case, case / 'work', greater=False)
    search = search_of(case, case / 'work', 4, plan, jobs=2, pruner='hyperband')
    queue(search, {}, {LR: 0.005}, {LR: 0.05}, {LR: 0.02})
    most = 0
    look = search._look

    def counting(active):
        nonlocal most
        most = max(most, len(search._active))
        assert len({one.slot for one in search._active}) == len(search._active)
        look(active)

    search._look = counting
    assert search.go() and most == 2
    runs = search.runs()
    # the lowest of each curve is its first, a sixth of the last
    assert runs[0].score == pytest.approx(0.7 / 6) and best_of(runs, False).number == 1
    assert [line.split()[0] for line in table(runs, plan).splitlines()[1:2]] == ['1']


def test_the_machine_is_shared(monkeypatch):
    monkeypatch.setattr('torch.cuda.device_count', lambda: 2)
    monkeypatch.setenv('CUDA_VISIBLE_DEVICES', '3,5')
    assert environment(0, 1) == {}
    assert [environment(slot, 3)['CUDA_VISIBLE_DEVICES'] for slot in range(3)] == ['3', '5', '3']
    monkeypatch.setattr('torch.cuda.device_count', lambda: 0)
    monkeypatch.setattr('os.cpu_count', lambda: 9)
    monkeypatch.delenv('OMP_NUM_THREADS', raising=False)
    assert environment(0, 4) == {'OMP_NUM_THREADS': '2'}


def test_a_training_that_does_not_end_is_killed_with_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr('mmyolo_ext.apis.tuning.training.PATIENCE', 0.5)
    (tmp_path / 'deaf.py').write_text(
        'import signal, subprocess, sys, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n'
        "worker = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        "print('worker', worker.pid, flush=True)\ntime.sleep(100)\n"
    )
    training = Training([sys.executable, str(tmp_path / 'deaf.py')], tmp_path / 'config.py', tmp_path)
    log = tmp_path / 'train.log'
    while 'worker' not in log.read_text():
        time.sleep(0.05)
    training.stop()
    assert training.poll() == -signal.SIGKILL
    assert training.reason() == 'ended by SIGKILL, perhaps for want of memory'
    state = subprocess.run(
        ['ps', '-o', 'stat=', '-p', log.read_text().split()[1]], capture_output=True, text=True
    ).stdout.strip()
    assert state == '' or state.startswith('Z')


@pytest.mark.parametrize(
    ('log', 'reason'),
    [
        ('a\nerror: there is no data\n', 'there is no data'),
        ('Traceback\n  x\nKeyError: 3\nmore\n', 'KeyError: 3'),
        ('INFO loss become infinite or NaN!\nAssertionError: None\n', 'the loss is NaN or infinite'),
        (
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory: 9 bytes\n",
            'out of memory: RuntimeErr',
        ),
        ('', 'exit status 3; its log is empty'),
        ('what\n', 'exit status 3; what'),
    ],
)
def test_the_reason_of_a_failure(tmp_path, log, reason):
    (tmp_path / 'fail.py').write_text(f'import sys; sys.stdout.write({log!r}); sys.exit(3)')
    training = Training([sys.executable, str(tmp_path / 'fail.py')], tmp_path / 'config.py', tmp_path)
    training._process.wait(60)
    assert training.reason().startswith(reason)


def test_scores_are_read_while_they_are_written(tmp_path):
    def write(time_of_start: str, *rows: dict, rest: str = '') -> None:
        file = tmp_path / time_of_start / 'vis_data' / 'scalars.json'
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(''.join(json.dumps(row) + '\n' for row in rows) + rest)

    assert read_scores(tmp_path, METRIC) == ({}, (), '')
    first, second = {METRIC: 0.1, 'step': 1}, {METRIC: 0.2, 'coco/x': 1, 'time': 3, 'step': 2}
    loss = {'loss': 1.0, 'epoch': 1, 'step': 1}
    write('20000101', loss, first, rest=json.dumps(second)[:-3])
    assert read_scores(tmp_path, METRIC) == ({1: 0.1}, (METRIC,), '')
    write('20000101', loss, first, second, {'loss': math.inf, 'epoch': 3, 'step': 9}, {METRIC: math.nan, 'step': 3})
    assert read_scores(tmp_path, METRIC) == ({1: 0.1, 2: 0.2}, (METRIC, 'coco/x'), 'the loss is inf in epoch 3')
    # resumed from the end of epoch 1: what was after it counts anew
    write('20000102', {METRIC: 0.3, 'step': 2}, {METRIC: 0.4, 'step': 3})
    assert read_scores(tmp_path, METRIC) == ({1: 0.1, 2: 0.3, 3: 0.4}, (METRIC, 'coco/x'), '')
    assert read_scores(tmp_path, 'other').by_step == {}


def test_csv_of_nothing():
    assert csv_text([]) == 'trial,state,score,last_epoch,seconds,reason\n'
