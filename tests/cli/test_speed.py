"""What a training and a test say of their speed, and torch.compile, as users start them."""

import re
from pathlib import Path

import pytest
import torch
from forked import run_python
from tiny_coco import REPO, make_tiny_coco, write_user_config

pytestmark = pytest.mark.slow


def tool(name: str, *arguments: str | Path, code: int = 0, **environment: str) -> str:
    """Output and errors of a tool, which must end with ``code``."""
    done = run_python(REPO / 'tools' / name, *arguments, **environment)
    text = done.stdout + done.stderr
    assert done.returncode == code, text[-3000:]
    return text


@pytest.fixture(scope='module')
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('speed')
    return write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'), extra="log_level = 'INFO'")


def test_a_compiled_training_and_a_test_of_it(config) -> None:
    work = config.parent / 'compiled'
    output = tool('train.py', config, '--work-dir', work, '--compile', 'eager', '--cfg-options', 'max_epochs=1')
    assert 'torch.compile (eager) compiles parts of the model' in output
    line = next(line for line in output.splitlines() if 'Epoch(train)' in line)
    assert re.search(r'images_per_second: [\d.]+  data_share: [01]\.\d+  memory: \d+', line)
    saved = torch.load(work / 'epoch_1.pth', weights_only=False)
    assert not [name for part in ('state_dict', 'ema_state_dict') for name in saved[part] if '_orig_mod' in name]

    output = tool('test.py', config, work / 'epoch_1.pth', '--work-dir', config.parent / 'test')
    names = re.findall(r'^  (\w[\w, ]*?) +[\d.]+ ms +[\d.]+%', output, re.MULTILINE)
    assert names == ['waiting for data', 'preprocessing', 'network', 'decoding, NMS', 'metric, hooks', 'all']
    assert re.search(r'\d images/s', output)


def test_a_compiler_that_is_missing(config) -> None:
    output = tool(
        *('train.py', config, '--work-dir', config.parent / 'none', '--compile', '--cfg-options', 'max_epochs=1'),
        code=2,
        CXX='no-such-compiler',
    )
    assert 'error: torch.compile needs a C++ compiler (no-such-compiler): install what is missing' in output


def test_an_unknown_backend(config) -> None:
    output = tool('train.py', config, '--work-dir', config.parent / 'none', '--compile', 'warp', code=2)
    assert 'backend of compile_parts must be one of' in output and "got 'warp'" in output
