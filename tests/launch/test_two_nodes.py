"""Two nodes, one of which is killed and started again: network namespaces, or two launchers on one address."""

import os
import re
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from launching import PATHS, Started, assert_same, kill, weights
from tiny_coco import REPO, write_user_config

pytestmark = pytest.mark.slow
Start = Callable[[int, Path, Path], Started]
ADDRESSES = ('10.213.77.1', '10.213.77.2')


def ip(*arguments: str) -> None:
    subprocess.run(['ip', *arguments], check=True, capture_output=True, text=True)


def make_nodes(names: list[str]) -> None:
    """Make two namespaces, each with a loopback and one end of a cable."""
    for name in names:
        ip('netns', 'add', name)
        ip('-n', name, 'link', 'set', 'lo', 'up')
    ip('-n', names[0], 'link', 'add', 'cable0', 'type', 'veth', 'peer', 'name', 'cable1', 'netns', names[1])
    for number, (name, address) in enumerate(zip(names, ADDRESSES, strict=True)):
        ip('-n', name, 'address', 'add', f'{address}/24', 'dev', f'cable{number}')
        ip('-n', name, 'link', 'set', f'cable{number}', 'up')


@pytest.fixture
def start() -> Iterator[Start]:
    """Start the training on node 0 or 1; with a config and a work dir."""
    names = [f'mmyolo_ext_{os.getpid()}_{number}' for number in range(2)]
    prefixes: list[tuple[str, ...]] = [(), ()]
    variables = {'MAX_RESTARTS': 1, 'NNODES': 2, 'PYTHONPATH': PATHS}
    try:
        if shutil.which('ip') is None:
            raise PermissionError
        make_nodes(names)
        prefixes = [('ip', 'netns', 'exec', name) for name in names]
        own = [{'MASTER_ADDR': ADDRESSES[0]}] * 2
    except (PermissionError, subprocess.CalledProcessError):
        with socket.socket() as probe:
            probe.bind(('127.0.0.1', 0))
            port = probe.getsockname()[1]
        own = [{'MASTER_ADDR': '127.0.0.1', 'PORT': port, 'NODE_RANK': rank} for rank in range(2)]
    running: list[Started] = []

    def start_node(number: int, config: Path, work_dir: Path) -> Started:
        command = (*prefixes[number], 'bash', REPO / 'tools' / 'dist_train.sh', config, 1, '--work-dir', work_dir)
        running.append(Started(command, **variables, **own[number]))
        return running[-1]

    yield start_node
    for launcher in running:
        if launcher.process.poll() is None:
            launcher.process.kill()
    if shutil.which('ip'):
        for name in names:
            subprocess.run(['ip', 'netns', 'delete', name], capture_output=True)


def test_a_killed_node_starts_again_and_the_training_ends_as_if_undisturbed(start, undisturbed, tmp_path):
    folder, expected = undisturbed
    extra = kill(tmp_path, iteration=3, rank=1, launcher=True)
    config = write_user_config(tmp_path / 'mine.py', folder / 'data', extra=extra)
    first, second = (start(number, config, tmp_path / 'work') for number in range(2))
    second.end(-signal.SIGKILL)
    first.wait_for('restart 1 of 1')
    again = start(1, config, tmp_path / 'work')
    output = first.end(0)
    again.end(0)
    assert re.search(r'Resumed from \S+: \d epochs, [345] iterations', output)
    assert_same(weights(tmp_path / 'work'), expected)
