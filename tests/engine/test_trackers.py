"""Real experiment trackers, where they are installed: they get the numbers of the log, and change none of them."""

import errno
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from mmengine.hooks import Hook
from mmengine.logging import MMLogger

from mmyolo_ext.engine.loggers import GuardedVisBackend

FULL = f'[Errno {errno.ENOSPC}] {os.strerror(errno.ENOSPC)}'
HERE = Path(__file__).parent
PROGRAM = f"""
import sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parent)!r}]
from test_progress import LOGGING
from test_trackers import StopAt
from toy_runner import ToyModel, toy_runner
from mmyolo_ext.apis.shortcuts import TRACKERS
from mmyolo_ext.cli.common import tool

def main():
    folder, name, stop_at = sys.argv[1], sys.argv[2], int(sys.argv[3])
    guarded = dict(type='mmyolo_ext.GuardedVisBackend', backend=TRACKERS.get(name))
    backends = [dict(type='LocalVisBackend'), *[guarded] * (name != 'none')]
    hooks = [dict(type='mmyolo_ext.ProgressHook'), StopAt(stop_at)]
    settings = dict(config=dict(work_dir=folder), max_epochs=2)
    settings.update(visualizer=dict(type='Visualizer', vis_backends=backends))
    toy_runner(folder, ToyModel(dropout=0.1), hooks=hooks, default_hooks=LOGGING, **settings).train()

tool(main)()
"""


class StopAt(Hook):
    """Sends SIGTERM to this process after an iteration."""

    def __init__(self, iteration):
        self.iteration = iteration

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


def train(folder, name='none', stop_at=0, code=0, **environment):
    offline = {'WANDB_MODE': 'offline', 'CLEARML_OFFLINE_MODE': '1', 'CLEARML_CACHE_DIR': str(folder / 'cache')}
    environment = {**os.environ, **offline, 'HOME': str(folder), 'WANDB_SILENT': 'true', **environment}
    command = [sys.executable, '-W', 'ignore', '-c', PROGRAM, folder / 'run', name, stop_at]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=environment, timeout=300)
    text = done.stdout + done.stderr
    assert done.returncode == code, text
    assert 'switched off' not in text and 'Traceback' not in text, text
    return text


def losses_of(folder):
    rows = [json.loads(line) for line in (folder / 'run/metrics.jsonl').read_text().splitlines()]
    return [(row['iter'], row['loss']) for row in rows]


def of_tensorboard(folder):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (events,) = folder.glob('run/*/vis_data/events.*')
    read = EventAccumulator(str(events)).Reload()
    return [(event.step, event.value) for event in read.Scalars('loss')]


def of_mlflow(folder):
    (file,) = folder.glob('run/*/vis_data/*/*/metrics/loss')
    return [(int(step), float(value)) for _, value, step in map(str.split, file.read_text().splitlines())]


def of_wandb(folder):
    """Find the losses in a protobuf: a key (field 2), the value as JSON (field 16); summaries repeat the newest."""
    (file,) = folder.glob('run/*/vis_data/wandb/offline-run-*/run-*.wandb')
    found = re.findall(rb'\x12\x04loss\x82\x01(.)([\d.]+)', file.read_bytes(), re.DOTALL)
    return [(None, value) for value in dict.fromkeys(float(text[: ord(length)]) for length, text in found)]


def of_clearml(folder):
    (file,) = folder.glob('**/offline-*.zip')
    with zipfile.ZipFile(file) as archive:
        rows = [row for line in archive.read('metrics.jsonl').splitlines() for row in json.loads(line)]
    return [(row['iter'], row['value']) for row in rows if row.get('metric') == 'loss']


READERS = {'tensorboard': of_tensorboard, 'mlflow': of_mlflow, 'wandb': of_wandb, 'clearml': of_clearml}


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    """Iterations and losses of a training without tracker."""
    folder = tmp_path_factory.mktemp('alone')
    train(folder)
    return losses_of(folder)


@pytest.mark.parametrize('name', READERS)
def test_tracker_gets_the_numbers_and_changes_none(name, alone, tmp_path):
    if importlib.util.find_spec(name) is None:
        pytest.skip(f'{name} is not installed')
    (tmp_path / 'whole').mkdir()
    (tmp_path / 'stopped').mkdir()
    train(tmp_path / 'whole', name)
    assert losses_of(tmp_path / 'whole') == alone and len(alone) == 6
    train(tmp_path / 'stopped', name, stop_at=8, code=143)
    for folder, iterations in (('whole', (2, 4, 7, 9)), ('stopped', (2, 4, 7))):  # the log has every second one
        found = READERS[name](tmp_path / folder)
        expected = [row for row in alone if row[0] in iterations]
        assert [loss for _, loss in found] == pytest.approx([loss for _, loss in expected], rel=1e-5)
        assert name == 'wandb' or [step for step, _ in found] == list(iterations)


@pytest.mark.filterwarnings('ignore::pytest.PytestUnhandledThreadExceptionWarning')  # of TensorBoard's thread
def test_tensorboard_on_a_full_disk_is_switched_off(tmp_path, monkeypatch):
    pytest.importorskip('tensorboard')
    mounted = subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip(f'a tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}')
    warnings = []
    monkeypatch.setattr(MMLogger, 'warning', lambda self, text: warnings.append(text))
    try:
        tracker = GuardedVisBackend({'type': 'TensorboardVisBackend'}, str(tmp_path))
        noise = np.random.default_rng(0).integers(0, 256, (100, 100, 3), np.uint8)  # 30 KB as PNG
        for step in range(50):
            tracker.add_image('noise', noise, step)
            tracker.add_scalars({'loss': 1.0}, step)
            time.sleep(0.02)  # TensorBoard writes in a thread
        tracker.close()
        assert warnings == [f'TensorboardVisBackend is switched off, the run continues: OSError: {FULL}']
    finally:
        subprocess.run(['umount', '-l', tmp_path], check=True)


def test_mlflow_uses_the_server_of_its_variable(tmp_path, monkeypatch):
    def tracking_uri():
        return GuardedVisBackend({'type': 'MLflowVisBackend'}, str(tmp_path))._backend._tracking_uri

    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', '')  # restored after the test
    monkeypatch.delenv('MLFLOW_ALLOW_FILE_STORE')
    monkeypatch.setenv('MLFLOW_TRACKING_URI', 'http://127.0.0.1:5000')
    assert tracking_uri() == 'http://127.0.0.1:5000'
    monkeypatch.delenv('MLFLOW_TRACKING_URI')
    assert tracking_uri() is None and os.environ['MLFLOW_ALLOW_FILE_STORE'] == 'true'  # files in its folder
