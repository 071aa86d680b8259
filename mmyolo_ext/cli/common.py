"""Common options of the command-line tools, and how the tools end."""

import argparse
import ctypes
import functools
import gc
import logging
import os
import shutil
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from mmengine.config import Config
from mmengine.logging import MMLogger
from torch import distributed

from mmyolo_ext.apis.config import OptionsAction
from mmyolo_ext.apis.config_errors import one_line
from mmyolo_ext.apis.distributed import set_rank_variables
from mmyolo_ext.apis.training import read_run_config
from mmyolo_ext.engine.console import quieten
from mmyolo_ext.engine.step_guard import NonFiniteError
from mmyolo_ext.engine.stopping import StopTraining

DEBUG = 'MMYOLO_EXT_DEBUG'
# what users can cause; anything else is a fault of ours and keeps its traceback
USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
SECONDS_FOR_THE_FIRST = 3
# of malloc.h in glibc
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER, AT_ONCE = 2**31 - 1, 64 << 20  # bytes
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')
# options that stand for config keys
SETTINGS = ('epochs', 'batch_size', 'img_scale', 'patience', 'seed', 'load_from', 'logger')


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that training and testing share, those of mmdet's tools among them."""
    parser.add_argument('--batch-size', type=whole_or_auto, help="images per step; 'auto' measures the GPU's memory")
    parser.add_argument(
        '--img-scale',
        type=side_or_size,
        metavar='PX',
        help='input size, px: 640, or 640x384 (width x height)',
    )
    parser.add_argument('--device', help='cpu, cuda or cuda:1; default: a GPU if there is one')
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=OptionsAction,
        help='settings that replace those of the config, such as train_dataloader.batch_size=8 or key="[a,b]"',
    )
    parser.add_argument(
        '--check',
        choices=('on', 'off'),
        help="'off' skips the checks of config, data and anchors before the first step (config key: check)",
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='launcher of the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')


def whole_or_auto(text: str) -> int | str:
    """Return a number of images, or ``'auto'``."""
    return text if text == 'auto' else int(text)


def side_or_size(text: str) -> int | tuple[int, int]:
    """Return the side of ``640``, or width and height of ``640x384``."""
    width, _, height = text.partition('x')
    return (int(width), int(height)) if height else int(width)


def load_for_run(args: argparse.Namespace, training: bool = True) -> Config:
    """Read the config of a run; its work dir is ``--work-dir``, else the config's own, else ``work_dirs/CONFIG``."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    if args.launcher != 'none':
        set_rank_variables(args.launcher)  # before the recipe counts the processes
    if args.work_dir is not None and not args.work_dir.strip():
        raise ValueError('--work-dir must name a folder, got an empty text')
    settings = {name: getattr(args, name, None) for name in SETTINGS}
    settings = {name: value for name, value in settings.items() if value is not None} | (args.cfg_options or {})
    recipe = getattr(args, 'recipe', None)
    if recipe:
        settings['recipe'] = None if recipe == 'none' else recipe
    cfg = read_run_config(args.config, args.data, 'auto', settings, args.work_dir, args.device, training)
    cfg.launcher = args.launcher
    cfg.check = args.check or cfg.get('check', 'on')
    return cfg


def tool(main: Callable[..., None] | None = None, *, left: str = '') -> Callable[..., None]:
    """Decorate the ``main`` of a tool, so that an error ends the process with one line and an exit code.

    Args:
        main: The function.
        left: What a tool leaves that is stopped by a signal, outside of a training.

    ====================================================  =========  =========================================
    what ended it                                         exit code  last line
    ====================================================  =========  =========================================
    a wrong option, config, dataset or file              2          ``error: ...``
    SIGTERM                                               143        what was saved, how to resume, or ``left``
    SIGINT (Ctrl-C)                                       130        what was saved, how to resume, or ``left``
    disk, memory, loader, another rank, numbers that are  1          what was saved, how to resume
    not finite
    a fault of this package                               1          the traceback
    ====================================================  =========  =========================================

    The environment variable MMYOLO_EXT_DEBUG=1 shows the traceback in all cases.
    """
    if main is None:
        return functools.partial(tool, left=left)

    def stop(number: int, frame: object) -> NoReturn:
        raise StopTraining(128 + number, f'Stopped by {signal.Signals(number).name}{left and f"; {left}"}')

    @functools.wraps(main)
    def run(*argv: Sequence[str] | None) -> None:
        keep_freed_memory()
        quieten(MMLogger.get_current_instance())  # that of tools without a runner
        warnings.filterwarnings('ignore', 'DeprecationWarning: `num_anchors`')  # mmdet warns of its own code
        warnings.filterwarnings('ignore', 'This DataLoader will create')  # TrainingInfoHook advises on workers
        in_main_thread = threading.current_thread() is threading.main_thread()
        before = signal.signal(signal.SIGTERM, stop) if in_main_thread else None
        code, line = 0, None
        try:
            main(*argv)
        except (KeyboardInterrupt, StopTraining, NonFiniteError, *USER_ERRORS) as error:
            if os.environ.get(DEBUG):
                raise
            code, line = _last_line(error, left)
        finally:
            if in_main_thread:
                # when the first of several ranks ends, its launcher sends SIGTERM to those that are about to end
                ends = code and int(os.environ.get('WORLD_SIZE', 1)) > 1
                signal.signal(signal.SIGTERM, signal.SIG_IGN if ends else before or signal.SIG_DFL)
        _end_process(code, line)

    return run


def _end_process(code: int, line: str | None) -> None:
    """Print the last line and exit unless all went well."""
    if line:
        print(line, file=sys.stderr, flush=True)
    if code == 0:
        gc.collect()  # loaders end their workers, which a signal handler of torch would report as killed
    joined = distributed.is_available() and distributed.is_initialized()
    if joined or code and int(os.environ.get('WORLD_SIZE', 1)) > 1:  # at once, so that the launcher ends the others
        # To leave the process group would wait for ranks that are gone, and at the end of the interpreter its threads
        # sometimes abort the process.
        logging.shutdown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    if code:
        sys.exit(code)


def _last_line(error: BaseException, left: str) -> tuple[int, str | None]:
    """Return exit code and line; no line where rank 0 says the same."""
    rank = int(os.environ.get('RANK', 0))
    code = 2
    if isinstance(error, KeyboardInterrupt):
        code, line = 130, f'Interrupted{left and f"; {left}"}'
    elif isinstance(error, (StopTraining, NonFiniteError)):
        code, line = getattr(error, 'code', 1), one_line(error)
    else:
        line = f'error: {one_line(error)}'
    if rank == 0:
        return code, line
    if code > 128 or isinstance(error, NonFiniteError):
        return code, None
    time.sleep(SECONDS_FOR_THE_FIRST)  # most errors hit all; the launcher ends the others once the first has said it
    return code, line.replace('error:', f'error (process {rank}):') if code == 2 else f'process {rank}: {line}'


@contextmanager
def whole_or_nothing(folder: Path) -> Iterator[None]:
    """Remove what was written into a folder, if it was new or empty, when the block fails or is interrupted."""
    is_new = not folder.exists()
    mine = is_new or folder.is_dir() and not any(folder.iterdir())
    try:
        yield
    except BaseException:
        for child in folder.iterdir() if mine and folder.is_dir() else ():
            shutil.rmtree(child) if child.is_dir() and not child.is_symlink() else child.unlink()
        if is_new and folder.is_dir():
            folder.rmdir()
        raise


def keep_freed_memory() -> bool:
    """Let this process, and those it forks, keep freed memory instead of returning it to the system.

    glibc returns what a step has freed, and the next step gets it page by page, each of which the system clears
    first. As with PyTorch's own memory on a GPU, the process keeps the most it ever needed.

    Returns:
        False where malloc is not glibc's; then nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # Large pieces too come from the heap, which grows by some megabytes at a time and never shrinks.
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER, TOP_PAD: AT_ONCE}
    return all(mallopt(name, value) for name, value in settings.items())
