"""Start launchers in tests, read their output and end them."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import torch
from tiny_coco import REPO

SECONDS = 300
# A launcher that waits for a lost node, or for more nodes than the least, waits seconds instead of a minute.
QUICK = 'keep_alive_interval=1,last_call_timeout=1'
PATHS = f'{REPO}:{Path(__file__).parent}'
# Three iterations an epoch on two ranks, two epochs; the log shows what is resumed.
SETTINGS = """
log_level = 'INFO'
batch_size = 1
custom_imports = dict(imports=['mmyolo_ext', 'kill_hook'], allow_failed_imports=False)
"""


def environment(**variables: object) -> dict[str, str]:
    """Return the environment of a user's shell, without what a launcher around the tests may have set."""
    foreign = ('SLURM_', 'TORCHELASTIC_', 'PET_', 'MASTER_', 'RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'NNODES', 'PORT')
    kept = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    own = {'OMP_NUM_THREADS': '1', 'PYTHONPATH': str(REPO), 'PYTHON': sys.executable, 'PET_RDZV_CONF': QUICK}
    return {**kept, **own, **{name: str(value) for name, value in variables.items()}}


class Started:
    """A command that runs, its output read line by line."""

    def __init__(self, command: Sequence[object], **variables: object) -> None:
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment(**variables),
        )
        self.lines: list[str] = []
        self._arrived = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout:
            with self._arrived:
                self.lines.append(line.rstrip())
                self._arrived.notify_all()
        with self._arrived:
            self._arrived.notify_all()

    @property
    def text(self) -> str:
        return '\n'.join(self.lines)

    def wait_for(self, words: str, times: int = 1) -> str:
        """Wait until ``words`` were printed in so many lines; the last of them is returned."""

        def found() -> list[str]:
            return [line for line in self.lines if words in line]

        with self._arrived:
            there = self._arrived.wait_for(lambda: len(found()) >= times or not self._reader.is_alive(), SECONDS)
        assert there and len(found()) >= times, f'{words!r} was not printed:\n{self.text[-3000:]}'
        return found()[times - 1]

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def end(self, code: int) -> str:
        """Wait for the end, which must have this exit code; the output is returned."""
        try:
            self.process.wait(SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f'still running after {SECONDS} s:\n{self.text[-3000:]}') from None
        self._reader.join(SECONDS)
        assert self.process.returncode == code, f'code {self.process.returncode}:\n{self.text[-3000:]}'
        return self.text


def run(command: Sequence[object], code: int = 0, **variables: object) -> str:
    """Run a command to its end, which must have this exit code; the output is returned."""
    return Started(command, **variables).end(code)


def launch(script: Path, *arguments: object, processes: int = 2, options: Sequence[str] = ('--standalone',)) -> list:
    """Return the command that starts ``script`` with tools/launch.py."""
    launcher = REPO / 'tools' / 'launch.py'
    return [sys.executable, launcher, *options, f'--nproc-per-node={processes}', script, *arguments]


def kill(folder: Path, **settings: object) -> str:
    """Return the line of a config that kills a process once."""
    hook = {'type': 'KillHook', 'marker': str(folder / 'killed'), **settings}
    return f'{SETTINGS}custom_hooks = [{hook!r}]'


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / 'epoch_2.pth', weights_only=True)['state_dict']


def assert_same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
