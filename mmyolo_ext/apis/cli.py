"""What the command-line tools share: their common options, and how they end."""

import argparse
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config, DictAction

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.distributed import leave_processes
from mmyolo_ext.apis.memory import keep_freed_memory
from mmyolo_ext.weights import install_reader

DEBUG = 'MMYOLO_EXT_DEBUG'
# what users can cause; anything else is a fault of ours and keeps its traceback
USER_ERRORS = (ValueError, FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError)
SECONDS_FOR_THE_FIRST = 3
LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


def add_common_options(parser: argparse.ArgumentParser) -> None:
    """The options of mmdet's tools that training and testing have in common."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='settings that replace those of the config, as train_dataloader.batch_size=8 or key="[a,b]"',
    )
    parser.add_argument(
        '--check',
        choices=('on', 'off'),
        help="'off' skips the checks of config, data and anchors before the first step (config key: check)",
    )
    parser.add_argument('--launcher', choices=LAUNCHERS, default='none', help='what starts the processes')
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help='set by some launchers')


def load_for_run(args: argparse.Namespace) -> Config:
    """The config of a run, its work dir settled: by ``--work-dir``, else the config's own, else by its name."""
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    install_reader()
    cfg = load_config(args.config, args.cfg_options)
    cfg.check = args.check or cfg.get('check', 'on')
    cfg.work_dir = args.work_dir or cfg.get('work_dir') or str(Path('work_dirs') / Path(args.config).stem)
    return cfg


def run_tool(main: Callable[[], None]) -> None:
    """Call ``main``; what a user can cause ends as one line ``error: ...`` and exit code 2.

    The environment variable MMYOLO_EXT_DEBUG=1 shows the traceback instead.
    """
    keep_freed_memory()
    try:
        main()
    except KeyboardInterrupt:
        print('\nstopped; a training goes on with --resume', file=sys.stderr)
        sys.exit(130)
    except USER_ERRORS as error:
        if os.environ.get(DEBUG):
            raise
        _report(error)
        sys.exit(2)
    finally:
        leave_processes()


def _report(error: BaseException) -> None:
    rank = int(os.environ.get('RANK', 0))
    if rank > 0:  # most errors hit every process; the launcher ends the others as soon as the first has said it
        time.sleep(SECONDS_FOR_THE_FIRST)
    where = f' (process {rank})' if rank else ''
    print(f'error{where}: {one_line(error)}', file=sys.stderr, flush=True)


def one_line(error: BaseException) -> str:
    """The message without line breaks and without the wrapping that registries and workers put around it."""
    text = str(error) or type(error).__name__
    if 'Traceback (most recent call last)' in text:  # raised in a worker process, which sends its traceback as text
        last = text.strip().splitlines()[-1]
        text = re.sub(r'^[\w.]*(Error|Exception): ', '', last)
    text = re.sub(r'^(class `\w+` in [\w/.]+: )+', '', text)
    return ' '.join(text.split())
