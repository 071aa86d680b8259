"""Start Python programs by forking a process that has imported their modules already.

Each program still gets a process, an environment, a working directory and a terminal of its own; it saves the seconds
that importing torch and mmdet takes. What depends on a fresh interpreter (imports, signals, launchers) starts one.
"""

import os
import runpy
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from rank_processes import PRELOADED

PRELOADED_TOO = ['mmyolo_ext.cli.train', 'mmyolo_ext.cli.test', 'mmyolo_ext.cli.predict', 'mmdet.datasets']


def run_python(
    *command: str | Path, cwd: str | Path | None = None, timeout: float = 300, **environment: str
) -> subprocess.CompletedProcess:
    """Run ``python COMMAND`` as ``subprocess.run(..., capture_output=True, text=True)`` does.

    Args:
        *command: A script and its arguments, or ``-m``, a module and its arguments.
        cwd: Working directory; by default that of the test.
        timeout: Seconds after which the process is killed.
        **environment: Changes of the environment of the test.

    Raises:
        subprocess.TimeoutExpired: The process was killed.
    """
    context = get_context('forkserver')
    context.set_forkserver_preload([*PRELOADED, *PRELOADED_TOO])
    words = [str(word) for word in command]
    with tempfile.TemporaryDirectory() as folder:
        outputs = [os.path.join(folder, name) for name in ('stdout', 'stderr')]
        settings = {**os.environ, 'OMP_NUM_THREADS': '1', **environment}
        process = context.Process(target=_run, args=(words, settings, str(cwd or Path.cwd()), outputs))
        process.start()
        process.join(timeout)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, timeout)
        stdout, stderr = (Path(path).read_text(errors='replace') for path in outputs)
    return subprocess.CompletedProcess(words, process.exitcode, stdout, stderr)


def run_ranks_of(ranks: int, *command: str | Path) -> list[subprocess.CompletedProcess]:
    """Run ``python COMMAND --launcher pytorch`` in processes that belong together, without torchrun."""
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        variables = {'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(free.getsockname()[1]), 'WORLD_SIZE': str(ranks)}

    def run_rank(rank: int) -> subprocess.CompletedProcess:
        return run_python(*command, '--launcher', 'pytorch', RANK=str(rank), LOCAL_RANK=str(rank), **variables)

    with ThreadPoolExecutor(ranks) as threads:
        return list(threads.map(run_rank, range(ranks)))


def _run(words: Sequence[str], environment: dict[str, str], cwd: str, outputs: Sequence[str]) -> None:
    for number, path in enumerate(outputs, 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), number)
    sys.stdout, sys.stderr = (os.fdopen(number, 'w', buffering=1) for number in (1, 2))
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    is_module = words[0] == '-m'
    sys.argv = list(words[is_module:])
    if is_module:
        runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)
    else:
        sys.path.insert(0, str(Path(sys.argv[0]).resolve().parent))
        runpy.run_path(sys.argv[0], run_name='__main__')
