"""Run tools/train.py in this process on a copy of a small data set, and give what a user would see.

``train(config, *arguments)`` returns a :class:`Run`. A case breaks the copy in ``data`` or passes lines of config, and
asserts exit code and message::

    def test_a_missing_image(data, train):
        (data / 'train' / '000000.jpg').unlink()
        run = train()
        assert run.code == 2 and '000000.jpg: No such file' in run.error
"""

import contextlib
import gc
import io
import json
import logging
import runpy
import shutil
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from mmengine.logging import MessageHub, MMLogger
from mmengine.registry import DefaultScope
from mmengine.visualization import Visualizer

from mmyolo_ext.datasets.digits import make_digits
from mmyolo_ext.engine.hooks import CurvesHook, ReportHook

REPO = Path(__file__).parents[2]
TRAIN_IMAGES, VAL_IMAGES = 24, 8
NAMED_INSTANCES = (MMLogger, MessageHub, DefaultScope, Visualizer)

# The quickstart's config with the smallest network, for one epoch of three steps and one validation.
BASE = f"""
_base_ = '{REPO / 'configs' / 'quickstart' / 'yolov5_n_digits.py'}'
data_root = '{{data}}/'
max_epochs = 1
model = dict(backbone=dict(widen_factor=0.125), neck=dict(widen_factor=0.125))
train_cfg = dict(val_interval=1)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(max_keep_ckpts=1))
"""


@dataclass
class Run:
    """What a run of a tool left: its exit code (1 with a traceback) and all it printed, logged and warned."""

    code: int
    text: str
    work_dir: Path

    @property
    def error(self) -> str:
        """The line after ``error: ``; empty if there is none.

        Raises:
            AssertionError: If there are several, or a traceback.
        """
        lines = [line for line in self.text.splitlines() if line.startswith('error: ')]
        assert 'Traceback' not in self.text, self.text[-3000:]
        assert len(lines) <= 1, lines
        return lines[0].removeprefix('error: ') if lines else ''

    @property
    def warnings(self) -> list[str]:
        """The lines of the log at level WARNING and the messages of Python's warnings."""
        return [line for line in self.text.splitlines() if ' WARNING - ' in line or 'Warning: ' in line]


@pytest.fixture(scope='session')
def digits(tmp_path_factory) -> Path:
    """Scenes of 128 px, never to be changed: 24 to train on, 8 to validate on."""
    folder = tmp_path_factory.mktemp('digits') / 'digits'
    make_digits(folder, TRAIN_IMAGES, VAL_IMAGES, 1)
    gc.freeze()  # what it has imported; every dataset of MMEngine collects garbage when it loads
    return folder


@pytest.fixture
def data(digits: Path, tmp_path: Path) -> Path:
    """A copy of the data set, to be broken."""
    return Path(shutil.copytree(digits, tmp_path / 'data'))


@pytest.fixture
def edit_json(data: Path) -> Callable:
    """``edit_json(change, split='train')`` rewrites an annotation file: ``change`` alters the parsed JSON in place, or
    returns another object."""

    def edit(change: Callable[[dict], object], split: str = 'train') -> Path:
        path = data / 'annotations' / f'{split}.json'
        content = json.loads(path.read_text())
        changed = change(content)
        path.write_text(json.dumps(content if changed is None else changed))
        return path

    return edit


@pytest.fixture
def tool(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """``tool(name, *arguments)``: run one of the tools."""
    return lambda name, *arguments: run_tool(name, *arguments, monkeypatch=monkeypatch)


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Callable[[str], Path]:
    """``config(lines)``: write a config of ``BASE`` and more lines."""

    def write(lines: str) -> Path:
        path = tmp_path / 'mine.py'
        path.write_text(f'{BASE.format(data=data)}\n{lines}\n')
        return path

    return write


@pytest.fixture
def train(config: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Run]:
    """``train(lines='', *arguments)``: train with lines of config after those of ``BASE``, and with more arguments
    of the command line."""

    def run(lines: str = '', *arguments: object) -> Run:
        work_dir = tmp_path / 'work'
        return run_tool('train.py', config(lines), '--work-dir', work_dir, *arguments, monkeypatch=monkeypatch)

    return run


def run_tool(name: str, *arguments: object, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run one of the tools in this process as a process of its own would."""
    arguments = [str(argument) for argument in arguments]
    monkeypatch.setattr(sys, 'argv', [name, *arguments])
    monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
    monkeypatch.setenv('LOCAL_RANK', '0')
    # What takes most of the time of a run this short: curves, the report and the figure to draw images on.
    monkeypatch.setattr(CurvesHook, 'after_train', lambda self, runner: None)
    monkeypatch.setattr(ReportHook, '_write', lambda self, *args: None)
    figure = SimpleNamespace(get_dpi=lambda: 100)
    monkeypatch.setattr(Visualizer, '_initialize_fig', lambda self, cfg: (None, figure, None))
    forget_instances()
    out, code = io.StringIO(), 0
    with (
        warnings.catch_warnings(record=True) as warned,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(out),
    ):
        warnings.simplefilter('default')
        try:
            runpy.run_path(str(REPO / 'tools' / name), run_name='__main__')
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else int(end.code is not None)
        except Exception:
            traceback.print_exc()
            code = 1
    forget_instances()
    messages = [f'{warning.category.__name__}: {warning.message}' for warning in warned]
    work_dir = Path(arguments[arguments.index('--work-dir') + 1]) if '--work-dir' in arguments else Path()
    return Run(code, '\n'.join([out.getvalue(), *messages]), work_dir)


def forget_instances() -> None:
    """Forget loggers, visualizers and scopes, which MMEngine keeps by names that two runs of one second share."""
    for logger in MMLogger._instance_dict.values():
        for handler in list(logger.handlers):
            if isinstance(handler, logging.FileHandler):
                handler.close()
    for kind in NAMED_INSTANCES:
        kind._instance_dict.clear()
