"""What a search that was stopped or killed leaves, and how the next one goes on with it."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from torch.utils.data import DataLoader
from tuning_case import SCALE, queue, search_of, write_case

from mmyolo_ext.apis.tuning import checkpoints
from mmyolo_ext.apis.tuning.checkpoints import keep_the_best, make_resumable
from mmyolo_ext.apis.tuning.lock import LOCK, locked
from mmyolo_ext.apis.tuning.memory import Run
from mmyolo_ext.apis.tuning.training import Training

SLEEP = "import time; print('here', flush=True); time.sleep(100)"
DEAF = f'import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}'
# holds the lock of the folder that it is told, as a search does
HOLD = f"""
import fcntl, sys
file = open(sys.argv[1])
fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
{SLEEP}
"""


def wait_for(log: Path) -> None:
    while 'here' not in log.read_text():
        time.sleep(0.02)


def left_behind(folder: Path, code: str) -> Training:
    """A training that holds the lock of ``folder``, whose search does not."""
    (folder / 'trial_001').mkdir()
    (folder / 'train.py').write_text(code)
    with locked(folder) as lock:
        command = [sys.executable, str(folder / 'train.py')]
        training = Training(command, folder / 'config.py', folder / 'trial_001', keep_open=(lock,))
    wait_for(folder / 'trial_001' / 'train.log')
    return training


def test_another_search_is_refused(tmp_path):
    with locked(tmp_path), pytest.raises(ValueError, match='another search.*is at work in'), locked(tmp_path):
        pass
    log = tmp_path / 'log'
    with log.open('w') as stream:
        other = subprocess.Popen([sys.executable, '-c', HOLD, str(tmp_path / LOCK)], stdout=stream)
    wait_for(log)
    try:
        with (
            pytest.raises(ValueError, match=rf'another search.*\(process {other.pid}\): let it end'),
            locked(tmp_path),
        ):
            pass
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(('code', 'end'), [(SLEEP, signal.SIGTERM), (DEAF, signal.SIGKILL)])
def test_trainings_of_a_killed_search_are_ended(tmp_path, monkeypatch, capsys, code, end):
    monkeypatch.setattr('mmyolo_ext.apis.tuning.lock.PATIENCE', 0.5)
    training = left_behind(tmp_path, code)
    with locked(tmp_path):
        assert training._process.wait(10) == -end
    assert f'left trainings behind: process {training._process.pid}; ended' in capsys.readouterr().out


def test_nothing_is_ended_where_something_else_has_the_lock_open(tmp_path):
    training = left_behind(tmp_path, SLEEP)
    try:
        with (tmp_path / LOCK).open() as file:  # as a search that was started just now
            other = subprocess.Popen(
                [sys.executable, '-c', 'input()'], stdin=subprocess.PIPE, pass_fds=(file.fileno(),)
            )
        both = f'{training._process.pid}, {other.pid}'
        with pytest.raises(ValueError, match=rf'\(process {both}\)'), locked(tmp_path):
            pass
        assert training.poll() is None and other.poll() is None
        other.communicate(b'\n')
    finally:
        training.stop()


def write_checkpoint(file: Path, part: float = 1.0) -> None:
    torch.save({'weight': torch.zeros(1000)}, file)
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * part)])


@pytest.mark.parametrize(
    ('loop', 'whole', 'cut_short', 'validated', 'expected'),
    [
        ({'max_epochs': 4}, [2, 3], [], [1, 2, 3], 3),
        ({'max_epochs': 9, 'val_interval': 3}, [4], [5], [3], 4),  # killed while writing
        ({'max_epochs': 4}, [2, 3], [], [1, 2], 2),  # killed before the validation
        ({'max_epochs': 4}, [3, 4], [], [1, 2, 3], 3),  # and before the last one
        ({'max_epochs': 9, 'val_interval': 3}, [4, 5], [], [3], 5),  # there is none
        ({'max_epochs': 9, 'val_interval': 3}, [5, 6], [], [3], 5),
        ({'max_epochs': 5, 'val_interval': 3}, [4, 5], [], [3], 4),
        ({'max_epochs': 12}, [9, 10], [11], range(1, 11), 10),  # not by name
        ({'max_epochs': 4}, [1], [], [], None),
        ({'max_epochs': 4}, [], [1], [1], None),
        ({'max_epochs': 4}, [], [], [], None),
        ({'max_iters': 9000}, [3000, 3500], [], [1000, 2000, 3000], 3500),
        ({'max_iters': 9000}, [3000, 4000], [], [1000, 2000, 3000], 3000),
    ],
)
def test_a_training_goes_on_where_no_score_is_lost(tmp_path, loop, whole, cut_short, validated, expected):
    unit = 'epoch' if 'max_epochs' in loop else 'iter'
    for number in whole:
        write_checkpoint(tmp_path / f'{unit}_{number}.pth')
    for number in cut_short:
        write_checkpoint(tmp_path / f'{unit}_{number}.pth', part=0.7)
    write_checkpoint(tmp_path / f'best_coco_bbox_mAP_{unit}_1.pth')  # is not one to resume from
    (tmp_path / 'last_checkpoint').write_text('work/of/another/folder/epoch_1.pth')
    make_resumable(tmp_path, Config({'train_cfg': loop}), validated)
    last = tmp_path / 'last_checkpoint'
    assert (last.read_text() if last.exists() else None) == (expected and str(tmp_path / f'{unit}_{expected}.pth'))


@pytest.mark.parametrize(
    'arguments',
    [
        {},
        {'val_begin': 3, 'val_interval': 4},
        {'val_interval': 5, 'dynamic_intervals': [(8, 2), (14, 1)]},
    ],
)
@pytest.mark.parametrize('counts', ['epoch', 'iter'])
def test_validations_are_where_mmengine_has_them(arguments, counts):
    validated = []
    runner = SimpleNamespace(
        visualizer=SimpleNamespace(),
        call_hook=lambda *args, **kwargs: None,
        model=SimpleNamespace(train=lambda: None),
        val_loop=SimpleNamespace(run=lambda: validated.append(loop.epoch if counts == 'epoch' else loop.iter)),
    )
    loader = DataLoader([0])
    if counts == 'epoch':
        loop = EpochBasedTrainLoop(runner, loader, max_epochs=17, **arguments)
        loop.run_iter = lambda *args: None
        told = {'max_epochs': 17, **arguments}
    else:
        loader = DataLoader([0] * 17)
        arguments = {'val_interval': 6, **arguments}
        loop = IterBasedTrainLoop(runner, loader, max_iters=17, **arguments)
        loop.run_iter = lambda batch: setattr(loop, '_iter', loop._iter + 1)
        told = {'max_iters': 17, **arguments}
    loop.run()
    assert validated and validated == [n for n in range(1, 18) if checkpoints._validates_at(told, n)]


def test_of_the_best_run_its_best_checkpoint_is_kept(tmp_path):
    def run(number: int, state: str, curve: dict[int, float]) -> Run:
        return Run(number, state, max(curve.values(), default=None), {}, curve, 1.0, '')

    runs = [
        run(0, 'done', {1: 0.1, 2: 0.3, 3: 0.2}),
        run(1, 'done', {1: 0.1}),
        run(2, 'running', {1: 0.1}),
        run(3, 'failed', {}),
        run(4, 'to go on', {1: 0.1}),
    ]
    folders = {tmp_path / f'trial_{one.number:03}': one for one in runs}
    # a resumed training does not know the best one of before, which stays beside its own
    names = ['best_coco_bbox_mAP_epoch_2.pth', 'best_coco_bbox_mAP_epoch_3.pth', 'epoch_2.pth', 'epoch_3.pth']
    for folder in folders:
        folder.mkdir()
        for name in (*names, 'last_checkpoint'):
            (folder / name).touch()
    keep_the_best(folders, runs[0])
    left = [sorted(file.name for file in folder.iterdir()) for folder in folders]
    everything = [*names, 'last_checkpoint']
    assert left == [['best_coco_bbox_mAP_epoch_2.pth'], [], everything, [], everything]
    # without best ones, the last
    (folder,) = list(folders)[:1]
    (folder / names[0]).unlink()
    for name in ('epoch_9.pth', 'epoch_10.pth'):
        (folder / name).touch()
    keep_the_best({folder: runs[0]}, runs[0])
    assert [file.name for file in folder.iterdir()] == ['epoch_10.pth']


def test_a_validation_that_was_interrupted_is_made_up_for(tmp_path):
    case = write_case(tmp_path)
    search = search_of(case, case / 'work', trials=2)
    queue(search, {}, {SCALE: 0.375})  # hangs between the checkpoint of epoch 6, the last, and its score
    look = search._look

    def look_and_interrupt(active):
        look(active)
        if active.number == 1 and len(active.seen) == 5 and (active.training.folder / 'epoch_6.pth').exists():
            raise KeyboardInterrupt

    search._look = look_and_interrupt
    with pytest.raises(KeyboardInterrupt):
        search.go()
    assert list(search.runs()[1].curve) == [1, 2, 3, 4, 5]
    again = search_of(case, case / 'work', trials=2)
    assert again.go()
    # 0.7 * 6 / 6, as trial 0
    assert list(again.runs()[1].curve) == [1, 2, 3, 4, 5, 6] and again.runs()[1].score == pytest.approx(0.7)


def test_a_config_that_is_edited_meanwhile_ends_the_search(tmp_path):
    case = write_case(tmp_path)
    config = case / 'config.py'
    good = config.read_text()
    search = search_of(case, case / 'work', trials=3)
    search._after_each = lambda runs: config.write_text(good.replace('momentum=0.9', 'momentum=0.8'))
    with pytest.raises(ValueError, match=r'config\.py has changed.*momentum was 0\.9, now 0\.8; put it back'):
        search.go()
    config.write_text(good)
    again = search_of(case, case / 'work', trials=3)
    assert again.go() and [run.state for run in again.runs()] == ['done'] * 3
