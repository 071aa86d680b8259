"""Check that killed and resumed trainings end like undisturbed ones; `kill_runs.py --count 100` does more."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from forked import run_python

SCRIPT = Path(__file__).with_name('kill_runs.py')


def attack(tmp_path, *arguments: str) -> str:
    """Output of the script, in a process of its own: it forks, which this one, with threads of its own, cannot."""
    done = run_python(SCRIPT, *arguments, timeout=500, TMPDIR=str(tmp_path), HOME=str(tmp_path))
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['time', 'call'])
def test_killed_runs_end_alike(tmp_path, mode):
    assert '3 of 3 runs finished alike' in attack(tmp_path, '--count', '3', '--mode', mode, '--seed', '3')


@pytest.mark.slow
def test_runs_killed_in_system_calls_end_alike(tmp_path):
    if shutil.which('strace') is None:
        pytest.skip('strace is not installed: it kills at exact system calls')
    probe = subprocess.run(['strace', '-qq', '-o', str(tmp_path / 'trace'), 'true'], capture_output=True)
    if probe.returncode:
        pytest.skip(f'strace may not trace here: {probe.stderr.decode()[-200:]}')
    assert '2 of 2 runs finished alike' in attack(tmp_path, '--count', '2', '--mode', 'strace')


@pytest.mark.slow
def test_the_real_recipe_with_workers_ends_alike(tmp_path):
    assert '1 of 1 runs finished alike' in attack(tmp_path, '--count', '1', '--data', 'coco', '--workers', '2')


def test_the_comparison_sees_a_difference():
    sys.path.insert(0, str(SCRIPT.parent))
    import torch
    from kill_runs import difference

    one = {'a': [torch.zeros(2), {'b': 1.0}], 'c': ('x', 2)}
    assert difference(one, {'a': [torch.zeros(2), {'b': 1.0}], 'c': ('x', 2)}) is None
    assert difference(one, {'a': [torch.tensor([0, 1e-45]), {'b': 1.0}], 'c': ('x', 2)}) == '.a.0'
    assert difference(one, {'a': [torch.zeros(2), {'b': 2.0}], 'c': ('x', 2)}).startswith('.a.1.b')
    assert difference(one, {'a': one['a']}) is not None
