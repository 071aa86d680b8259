"""One search at a time in a folder; what a killed one left running there is ended."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from mmyolo_ext.apis.files import check_work_dir
from mmyolo_ext.apis.tuning.memory import RUN_FOLDER

LOCK = 'study.lock'
PROCESSES = Path('/proc')  # of Linux; elsewhere nothing is known about other processes
PATIENCE = 15.0  # seconds that processes have to end themselves
LOOK = 0.1


@contextmanager
def locked(folder: Path) -> Iterator[int]:
    """Keep other searches out of ``folder``; the descriptor of the lock, which trainings hold as long as they live.

    A search that is killed cannot end its trainings. Where trainings alone hold the lock they are ended here; what
    they have written is gone on with.

    Raises:
        ValueError: another search is at work there, or something that cannot be told to be a training.
    """
    check_work_dir(str(folder))
    with (folder / LOCK).open('a') as file:
        if not _taken(file):
            holders = _holders(folder / LOCK)
            left_behind = bool(holders) and all(map(_is_training, holders))
            if not left_behind or not _end(folder / LOCK, file):
                told = f' (process {", ".join(map(str, holders))})' if holders else ''
                raise ValueError(
                    f'another search, or a training that one left behind, is at work in {folder}{told}: let it end or '
                    'stop it'
                )
            print(f'a search that was killed left trainings behind: process {", ".join(map(str, holders))}; ended')
        yield file.fileno()


def _taken(file: IO) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _holders(lock: Path) -> list[int]:
    """Other processes that have the file open, as far as they may be looked into."""
    target, found = str(lock.resolve()), []
    for process in PROCESSES.glob('[0-9]*'):
        with suppress(OSError):  # it has ended, or is another user's
            if int(process.name) != os.getpid() and any(_leads_to(fd, target) for fd in (process / 'fd').iterdir()):
                found.append(int(process.name))
    return sorted(found)


def _leads_to(link: Path, target: str) -> bool:
    with suppress(OSError):
        return os.readlink(link) == target
    return False


def _is_training(process: int) -> bool:
    """By its command line, see :class:`.Training`; that of a search names no folder of a run."""
    try:
        words = (PROCESSES / str(process) / 'cmdline').read_text(errors='replace').split('\0')
    except OSError:  # it has ended since
        return True
    folder = words[words.index('--work-dir') + 1] if '--work-dir' in words[:-1] else ''
    return '--resume' in words and Path(folder).name.startswith(RUN_FOLDER)


def _end(lock: Path, file: IO) -> bool:
    """End the processes that hold the lock, by force after some seconds; whether it is ours then."""
    for how in (signal.SIGTERM, signal.SIGKILL):
        for process in filter(_is_training, _holders(lock)):
            with suppress(OSError):
                os.kill(process, how)
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            if _taken(file):
                return True
            time.sleep(LOOK)
    return False
