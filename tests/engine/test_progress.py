"""Progress on a terminal and in files; trackers that fail."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from forked import run_python
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from mmengine.visualization.vis_backend import BaseVisBackend
from rank_processes import run_ranks
from terminal import on_terminal
from toy_runner import ToyDataset, toy_runner

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.cli.common import load_for_run
from mmyolo_ext.cli.train import parse_args
from mmyolo_ext.engine.hooks import progress
from mmyolo_ext.engine.hooks.progress import ProgressHook
from mmyolo_ext.engine.stopping import StopTraining
from mmyolo_ext.registry import VISBACKENDS

HERE = Path(__file__).parent
LOGGING = {
    'runtime_info': {'type': 'mmyolo_ext.TrainingInfoHook'},
    'logger': {'type': 'LoggerHook', 'interval': 2},
    'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'max_keep_ckpts': -1},
}
PROGRAM = """
import sys
sys.path[:0] = [{here!r}, {tests!r}]
from test_progress import LOGGING, Talk
from toy_runner import ToyDataset, toy_runner
hooks = [dict(type='mmyolo_ext.ProgressHook'), Talk()]
toy_runner(sys.argv[1], hooks=hooks, default_hooks=LOGGING, log_level='INFO').train()
print('the end')
"""


class Talk(Hook):
    """Log a warning in the second epoch."""

    def before_train_epoch(self, runner):
        if runner.epoch == 1:
            runner.logger.warning('something to read')


class FailAt(Hook):
    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            raise RuntimeError('no more')


class KeepLosses(Hook):
    priority = 'VERY_HIGH'

    def __init__(self):
        self.losses = []

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss'].detach()))


def rows(folder):
    return [json.loads(line) for line in (folder / 'metrics.jsonl').read_text().splitlines()]


def status(folder):
    return json.loads((folder / 'status.json').read_text())


def progress_runner(folder, *hooks, **settings):
    return toy_runner(folder, hooks=[ProgressHook(), *hooks], default_hooks=LOGGING, **settings)


def test_files_hold_the_numbers_of_the_log(tmp_path):
    kept = KeepLosses()
    progress_runner(tmp_path, kept).train()
    # 5 iterations an epoch, a line at every second one and at the end of an epoch
    assert [row['iter'] for row in rows(tmp_path)] == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20]
    assert [row['epoch'] for row in rows(tmp_path)] == [epoch for epoch in (1, 2, 3, 4) for _ in range(3)]
    for row in rows(tmp_path):  # means over a window of 10 iterations
        assert row['loss'] == pytest.approx(np.mean(kept.losses[max(row['iter'] - 10, 0) : row['iter']]), rel=1e-5)
    found = status(tmp_path)
    assert {**found, **dict.fromkeys(('updated', 'pid', 'metrics'))} == {
        **{'state': 'finished', 'epoch': 4, 'max_epochs': 4, 'iter': 20, 'max_iters': 20, 'eta_seconds': 0.0},
        **{'validation': {}, 'best': {}, **dict.fromkeys(('updated', 'pid', 'metrics'))},
    }
    assert found['pid'] == os.getpid() and found['metrics']['loss'] == rows(tmp_path)[-1]['loss']
    assert not list(tmp_path.glob('*.tmp'))


def test_failure_is_in_the_status_and_resuming_repeats_no_row(tmp_path):
    with pytest.raises(RuntimeError, match='no more'):
        progress_runner(tmp_path, FailAt(13)).train()
    assert status(tmp_path)['state'] == 'failed' and status(tmp_path)['error'] == 'RuntimeError: no more'
    assert rows(tmp_path)[-1]['iter'] == 12  # the last checkpoint is that of iteration 10
    with (tmp_path / 'metrics.jsonl').open('a') as file:
        file.write('{"split": "tr')  # as a kill leaves it
    progress_runner(tmp_path, resume=True, experiment_name='resumed').train()
    assert [row['iter'] for row in rows(tmp_path)] == [2, 4, 5, 7, 9, 10, 12, 14, 15, 17, 19, 20]
    progress_runner(tmp_path, experiment_name='another', max_epochs=1).train()
    assert [row['iter'] for row in rows(tmp_path)] == [2, 4, 5]


@METRICS.register_module()
class ScriptedMetric(BaseMetric):
    """Has the next of some scores."""

    scores: list = []

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return {'score': self.scores.pop(0), 'other': 1}


@pytest.mark.parametrize(('rule', 'best'), [('greater', (2, 0.6)), ('less', (1, 0.2))])
def test_status_has_the_last_and_the_best_validation(tmp_path, rule, best):
    loader = {'dataset': ToyDataset(2), 'sampler': {'type': 'DefaultSampler', 'shuffle': False}, 'batch_size': 2}
    checkpoint = {**LOGGING['checkpoint'], 'save_best': 'score', 'rule': rule}
    hooks = {**LOGGING, 'checkpoint': checkpoint}
    settings = {'hooks': [ProgressHook()], 'default_hooks': hooks, 'config': {'default_hooks': hooks}}
    settings |= {'val_cfg': {}, 'val_dataloader': {**loader, 'collate_fn': {'type': 'default_collate'}}}
    settings |= {'val_evaluator': {'type': 'ScriptedMetric'}, 'train_cfg': {'by_epoch': True, 'max_epochs': 4}}
    ScriptedMetric.scores = [0.2, 0.9]
    with pytest.raises(RuntimeError, match='no more'):
        toy_runner(tmp_path, **{**settings, 'hooks': [ProgressHook(), FailAt(13)]}).train()
    assert status(tmp_path)['validation'] == {'epoch': 2, 'iter': 10, 'score': 0.9, 'other': 1}
    ScriptedMetric.scores = [0.6, float('nan'), 0.5]  # the validation after the checkpoint is repeated
    toy_runner(tmp_path, resume=True, experiment_name='resumed', **settings).train()
    found = [(row['epoch'], row['score']) for row in rows(tmp_path) if row['split'] == 'val']
    assert found == [(1, 0.2), (2, 0.6), (3, None), (4, 0.5)]
    assert status(tmp_path)['validation'] == {'epoch': 4, 'iter': 20, 'score': 0.5, 'other': 1}
    assert (status(tmp_path)['best']['epoch'], status(tmp_path)['best']['score']) == best


def test_folder_that_cannot_be_written_ends_no_training(tmp_path, caplog):
    (tmp_path / 'status.json').mkdir()
    runner = progress_runner(tmp_path)
    warnings = []
    runner.logger.warning = warnings.append
    runner.train()
    assert len([text for text in warnings if 'not written' in text]) == 1 and runner.iter == 20


class StopRank(Hook):
    """Sends SIGTERM to one rank."""

    def __init__(self, rank, iteration):
        self.rank, self.iteration = rank, iteration

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if (runner.rank, runner.iter) == (self.rank, self.iteration):
            os.kill(os.getpid(), signal.SIGTERM)


def train_on_ranks(folder):
    """Train to the end, then until rank 1 gets a signal; return the losses, and how often each file was written."""
    written, kept = [], KeepLosses()
    replace = progress.replace
    progress.replace = lambda path, text: (written.append(path.name), replace(path, text))
    wrapper = {'type': 'MMDistributedDataParallel', 'device_ids': None, 'broadcast_buffers': False}
    settings = {'launcher': 'pytorch', 'config': {'model_wrapper_cfg': wrapper}, 'max_epochs': 2}
    progress_runner(folder / 'whole', kept, **settings).train()
    with pytest.raises(StopTraining):
        progress_runner(folder / 'stopped', StopRank(1, 3), **settings).train()
    return kept.losses, written


def test_two_ranks_write_as_one(tmp_path):
    (losses, written), (other_losses, other_written) = run_ranks(train_on_ranks, 2, tmp_path / 'ranks', tmp_path)
    # 10 samples, 2 ranks, batches of 2: 3 iterations an epoch; a line at every second one and at the end of an epoch
    assert [(row['epoch'], row['iter']) for row in rows(tmp_path / 'whole')] == [(1, 2), (1, 3), (2, 5), (2, 6)]
    for row in rows(tmp_path / 'whole'):  # means over the ranks
        both = losses[: row['iter']] + other_losses[: row['iter']]
        assert row['loss'] == pytest.approx(np.mean(both), rel=1e-5)
    assert {'status.json', 'metrics.jsonl'} == set(written) and other_written == []
    whole, stopped = status(tmp_path / 'whole'), status(tmp_path / 'stopped')
    assert (whole['state'], whole['iter'], whole['max_iters']) == ('finished', 6, 6)
    # the ranks agree at the end of the iteration after that of the signal
    assert (stopped['state'], stopped['iter']) == ('stopped', 5) and rows(tmp_path / 'stopped')[-1]['iter'] == 5


def program(folder):
    return [sys.executable, '-c', PROGRAM.format(here=str(HERE), tests=str(HERE.parent)), str(folder)]


def test_terminal_shows_bars_and_keeps_messages(tmp_path):
    text, plain = on_terminal(*program(tmp_path))
    for epoch in (1, 2, 3, 4):
        assert re.search(rf'Epoch {epoch}/4 .* 5/5 ', plain)
    assert 'ETA 0:00:0' in plain and 'something to read' in plain
    assert 'Epoch(train)' not in plain  # the bar shows it
    assert text.rindex('\x1b[?25h') > text.rindex('\x1b[?25l')  # the cursor is back
    assert plain.rstrip().endswith('the end')


def test_pipe_gets_plain_lines(tmp_path):
    (tmp_path / 'program.py').write_text(PROGRAM.format(here=str(HERE), tests=str(HERE.parent)))
    done = run_python(tmp_path / 'program.py', tmp_path, TERM='xterm')
    assert done.returncode == 0, done.stderr
    assert '\x1b' not in done.stdout and done.stdout.count('Epoch(train)') == 8  # two lines an epoch


@VISBACKENDS.register_module()
class RecordingVisBackend(BaseVisBackend):
    """Keeps steps; fails at one of them."""

    steps: list = []

    def __init__(self, save_dir, fails_at=None):
        super().__init__(save_dir)
        self.fails_at = fails_at

    def _init_env(self):
        pass

    @property
    def experiment(self):
        return self

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs):
        if self.fails_at is not None and step >= self.fails_at:
            raise ConnectionError('no route')
        self.steps.append(step)


@pytest.mark.parametrize(
    ('backend', 'steps', 'reason'),
    [
        ({'type': 'mmyolo_ext.RecordingVisBackend'}, [2, 4, 7, 9], None),
        ({'type': 'mmyolo_ext.RecordingVisBackend', 'fails_at': 5}, [2, 4], 'ConnectionError: no route'),
        ({'type': 'mmyolo_ext.RecordingVisBackend', 'wrong': 1}, [], 'TypeError'),
        ({'type': 'NoSuchVisBackend'}, [], 'KeyError'),
    ],
)
def test_failing_tracker_is_switched_off(tmp_path, backend, steps, reason):
    RecordingVisBackend.steps.clear()
    guarded = {'type': 'mmyolo_ext.GuardedVisBackend', 'backend': backend}
    runner = progress_runner(tmp_path, max_epochs=2, visualizer={'type': 'Visualizer', 'vis_backends': [guarded]})
    runner.train()
    assert RecordingVisBackend.steps == steps and runner.iter == 10
    log = next(tmp_path.glob('*/*.log')).read_text()
    assert log.count('is switched off') == (reason is not None) and (reason or '') in log


def test_logger_shortcut(tmp_path):
    config = HERE.parents[1] / 'configs/yolov5/yolov5_n_640_coco.py'
    cfg = load_config(config, {'logger': ['tensorboard', 'wandb']})
    assert [backend.get('name') for backend in cfg.visualizer.vis_backends] == [None, 'tensorboard', 'wandb']
    assert cfg.visualizer.vis_backends[1].backend == {'type': 'TensorboardVisBackend'}
    assert 'logger' not in cfg
    with pytest.raises(ValueError, match="logger must be one or several of tensorboard.*got 'tensorbord'"):
        load_config(config, {'logger': 'tensorbord'})


def test_logger_option(tmp_path):
    args = parse_args(['yolov5_n', '--logger', 'tensorboard,mlflow', '--work-dir', str(tmp_path)])
    backends = load_for_run(args).visualizer.vis_backends
    assert [backend.get('name') for backend in backends] == [None, 'tensorboard', 'mlflow']
