"""Run something in a process of its own, with little memory, that notes what it runs, writes and deletes."""

import importlib
import os
import resource
import runpy
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

# what every tool would import anew in its process; mmyolo_ext first, for mmdet needs the ops it supplies
APIS = ('apis.exporting', 'apis.publishing', 'apis.config', 'cli.convert_weights')
LOADED = [f'mmyolo_ext.{name}' for name in APIS] + ['mmdet.datasets', 'mmdet.evaluation', 'mmdet.models']
for name in [*LOADED, 'matplotlib.pyplot']:
    importlib.import_module(name)

REPO = Path(__file__).parents[2]
MEMORY = 3 * 2**30  # bytes beyond what the process has
SECONDS = 60  # of a processor
STARTS = ('os.system', 'os.exec', 'os.posix_spawn', 'subprocess.Popen', 'socket.connect', 'socket.getaddrinfo')
CHANGES = ('os.remove', 'os.rename', 'os.rmdir', 'os.mkdir', 'os.symlink', 'os.link', 'os.chmod', 'os.truncate')
CHANGES += ('shutil.rmtree', 'shutil.move')
HARMLESS = ('/dev/', '/proc/')


class Ended(NamedTuple):
    """Exit code, standard error, and what was done that a file must not be able to do."""

    code: int
    errors: str
    faults: list[str]


def run_watched(action: Callable[[], None], folder: Path) -> Ended:
    """Fork, call ``action`` there, and wait for its end.

    Args:
        action: May raise SystemExit.
        folder: The only place where files may be written or deleted; a file named ``canary`` there is one of what
            must not happen.
    """
    errors, faults = folder / 'watched.err', folder / 'watched.faults'
    child = os.fork()
    if child == 0:
        code = 70
        try:
            code = _watched(action, folder, errors, faults)
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    found = faults.read_text().splitlines() if faults.exists() else []
    found += ['the canary was made'] * (folder / 'canary').exists()
    return Ended(os.waitstatus_to_exitcode(status), errors.read_text(errors='replace'), found)


def tool(name: str, *arguments: object) -> Callable[[], None]:
    """An action: a tool of ``tools/``."""

    def run() -> None:
        sys.argv = [name, *map(str, arguments)]
        runpy.run_path(str(REPO / 'tools' / name), run_name='__main__')

    return run


def _watched(action: Callable[[], None], folder: Path, errors: Path, faults: Path) -> int:
    stream = os.open(errors, os.O_WRONLY | os.O_CREAT)
    os.dup2(stream, 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    sys.stdout, sys.stderr = os.fdopen(1, 'w', closefd=False), os.fdopen(2, 'w', closefd=False)
    sys.dont_write_bytecode = True
    os.environ.pop('MMYOLO_EXT_DEBUG', None)
    os.chdir(folder)
    tempfile.tempdir = str(folder)  # MMEngine reads configs from copies
    note = os.open(faults, os.O_WRONLY | os.O_CREAT)
    sys.addaudithook(lambda event, args: _judge(event, args, folder, note))
    used = int(Path('/proc/self/statm').read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    code = 0
    try:
        action()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stderr.flush()
    return code


def _judge(event: str, args: tuple, folder: Path, note: int) -> None:
    if event in STARTS and 'canary' in str(args):
        os.write(note, f'{event} {args!r}\n'.encode())
    paths = args[:2] if event in CHANGES else ()
    if event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        paths = args[:1]
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            full = os.path.abspath(os.fsdecode(path))
            if not full.startswith((str(folder), *HARMLESS)):
                os.write(note, f'{event} {full}\n'.encode())
