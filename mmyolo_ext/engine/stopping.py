"""End a training on a signal or a failure of the machine: save a checkpoint, stop all ranks, print one line."""

import copy
import ctypes
import errno
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

import torch
from mmengine.dist import get_world_size, is_distributed
from mmengine.runner import EpochBasedTrainLoop
from torch import Tensor, distributed
from torch.utils.data import DataLoader

from mmyolo_ext.engine.step_guard import NonFiniteError

SIGNALS = (signal.SIGTERM, signal.SIGINT)
SECONDS_TO_INSIST = 1  # a launcher forwards the Ctrl-C that its processes have already got from the terminal
PR_SET_PDEATHSIG = 1
LOST_WRITING = {
    errno.ENOSPC: 'the disk is full',
    errno.EDQUOT: 'the disk quota is used up',
    errno.EACCES: 'permission was lost',
    errno.EPERM: 'permission was lost',
    errno.EROFS: 'the file system has become read-only',
    errno.EIO: 'the disk reports an error',
    errno.ESTALE: 'the network file system is gone',
}
RANK_LOST = 'another process of this training ended or cannot be reached'
OF_COMMUNICATION = re.compile(
    r'gloo|nccl|process ?group|connection (closed|reset|refused)|broken pipe|heartbeat|socket', re.IGNORECASE
)


class StopTraining(SystemExit):
    """Raised to end the training after a checkpoint was saved, if possible.

    Args:
        exit_code: Exit code of the process: 128 + the number of the signal, 1 after a failure.
        message: One line: what happened, what was saved, how to resume.
    """

    def __init__(self, exit_code: int, message: str) -> None:
        super().__init__(exit_code)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Stopper:
    """Save and end a training on SIGTERM or SIGINT, or on a failure of disk, memory, loader or another rank.

    The signal handler only sets a flag. The ranks share it by an all-reduce of one number on the CPU, which is started
    at the end of one iteration and read at the end of the next, so that nothing waits for it; all ranks stop at the
    same iteration. In a validation, each rank stops on its own signal. A second SIGINT ends the process at once.

    Examples:
        >>> runner.stopper = Stopper()
        >>> with runner.stopper.watch(runner):
        ...     train()  # calls runner.stopper.check(runner) after each iteration
    """

    def __init__(self) -> None:
        self._signal = 0
        self._noted_at = 0.0
        self._reduction: tuple[distributed.Work, Tensor] | None = None
        self._group: distributed.ProcessGroup | None = None

    @contextmanager
    def watch(self, runner) -> Iterator[None]:
        """Handle the signals while a training runs, and end it with one line if something fails.

        Raises:
            StopTraining: After a signal, or a failure of disk, memory, loader or another rank.
            NonFiniteError: After too many steps that were not finite.
        """
        self._group = distributed.new_group(backend='gloo') if get_world_size() > 1 else None
        for loop in (runner.train_loop, runner.val_loop):
            if loop is not None:
                protect_workers(loop.dataloader)
        # When the first rank ends, the launcher sends SIGTERM to the others, which end with their own exit codes.
        kept_after = (StopTraining, NonFiniteError) if self._group is not None else ()
        with signal_handlers(dict.fromkeys(SIGNALS, self._note), kept_after):
            try:
                yield
                if self._reduction is not None:
                    self._reduction[0].wait()  # the last one, which is not read
            except NonFiniteError as error:
                path = self._save(runner, 'numbers are not finite', all_ranks=True)
                raise NonFiniteError(f'{error}. {outcome(runner, path)}') from error
            except Exception as error:
                reason = reason_of(error)
                # with NCCL, the step that waits for a lost rank may still run, on incomplete gradients
                torn = reason == RANK_LOST and distributed.get_backend() == 'nccl'
                path = None if torn else self._save(runner, reason or f'of {type(error).__name__}')
                if reason is None:
                    raise
                message = f'Stopped at {_place(runner)}: {reason}. {outcome(runner, path)}'
                raise StopTraining(1, message) from error

    def check(self, runner) -> None:
        """End an iteration; all ranks call this after each one.

        Raises:
            StopTraining: If a rank got a signal in the iteration before; the checkpoint is saved.
        """
        number = self._agreed()
        if number:
            self._stop(runner, number, all_ranks=True)

    def check_validation(self, runner) -> None:
        """Stop here if this rank got a signal.

        Raises:
            StopTraining: As :meth:`check`.
        """
        if self._signal:
            self._stop(runner, self._signal, all_ranks=self._group is None)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT and self._signal == number and now - self._noted_at > SECONDS_TO_INSIST:
            raise KeyboardInterrupt
        if not self._signal:
            self._signal, self._noted_at = int(number), now

    def _agreed(self) -> int:
        """Return the highest signal that any rank had an iteration ago; of one process, the one it has now."""
        if self._group is None:
            return self._signal
        number = 0
        if self._reduction is not None:
            work, noted = self._reduction
            work.wait()
            number = int(noted)
        if not number:
            noted = torch.tensor(self._signal)
            work = distributed.all_reduce(noted, distributed.ReduceOp.MAX, group=self._group, async_op=True)
            self._reduction = work, noted
        return number

    def _stop(self, runner, number: int, all_ranks: bool) -> NoReturn:
        name, place = signal.Signals(number).name, _place(runner)
        path = self._save(runner, f'of {name}', all_ranks)
        what = 'Interrupted' if number == signal.SIGINT else f'Stopped by {name}'
        raise StopTraining(128 + number, f'{what} at {place}. {outcome(runner, path)}')

    def _save(self, runner, reason: str, all_ranks: bool = False) -> str | None:
        try:
            return runner.save_emergency(reason, all_ranks=all_ranks)
        except Exception as error:  # must not hide the reason why the training ended
            runner.logger.error(f'No checkpoint could be saved: {type(error).__name__}: {error}')
            return None


class WorkerStart:
    """Prepares a worker of a loader, then calls the loader's own ``worker_init_fn``.

    The worker ignores SIGINT and SIGTERM, so that the main process gets its batches until the checkpoint is saved. It
    ends when the main process ends, for any reason.

    Args:
        inner: Called afterwards with the number of the worker.
        is_child: Whether the main process is the parent; with the start method ``forkserver``, the parent is the fork
            server, which ends with the main process.
    """

    def __init__(self, inner: Callable[[int], Any] | None, is_child: bool = True) -> None:
        self.inner = inner
        self.is_child = is_child
        self.main_process = os.getpid()

    def __call__(self, worker_id: int) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        end_with_parent(signal.SIGKILL, self.main_process if self.is_child else os.getppid())
        if self.inner is not None:
            self.inner(worker_id)


class _KilledWorker:
    """Mixin of processes: ``terminate`` kills, because the worker ignores SIGTERM."""

    def start(self) -> None:
        super().start()
        self._popen.terminate = self._popen.kill


PROCESSES = {}  # by start method
for _method in set(multiprocessing.get_all_start_methods()):
    _name = f'_{_method.capitalize()}Worker'  # a name in this module, by which a new process finds the class
    PROCESSES[_method] = globals()[_name] = type(
        _name, (_KilledWorker, multiprocessing.get_context(_method).Process), {'__module__': __name__}
    )


def protect_workers(loader: DataLoader) -> None:
    """Let the workers of a loader ignore signals, and end with the main process."""
    if loader.num_workers > 0 and not isinstance(loader.worker_init_fn, WorkerStart):
        method = (loader.multiprocessing_context or multiprocessing).get_start_method()
        loader.worker_init_fn = WorkerStart(loader.worker_init_fn, is_child=method != 'forkserver')
        loader.multiprocessing_context = copy.copy(multiprocessing.get_context(method))
        loader.multiprocessing_context.Process = PROCESSES[method]


def end_with_parent(number: int, parent: int) -> None:
    """Make the system send this process a signal when its parent ends. Linux only.

    Args:
        number: Number of the signal.
        parent: Process id of the parent; if it has ended already, the signal is sent at once.
    """
    if not sys.platform.startswith('linux'):
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def reason_of(error: BaseException) -> str | None:
    """Return which failure of the machine an exception reports; None for any other exception."""
    seen = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in LOST_WRITING and not isinstance(seen, ConnectionError):
            where = f' ({seen.filename})' if seen.filename else ''
            return f'{LOST_WRITING[seen.errno]}{where}'
        seen = seen.__cause__ or seen.__context__
    text = ' '.join(str(error).split())
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return f'out of memory ({text[:200] or type(error).__name__})'
    if not isinstance(error, RuntimeError):
        return None
    if 'DataLoader worker' in text:
        return f'a worker of the data loader died ({text.split(". ")[0][:200]})'
    if isinstance(error, distributed.DistError) or is_distributed() and OF_COMMUNICATION.search(text):
        return RANK_LOST
    return None


def resume_command() -> str:
    """Return the command that resumes the run of this process."""
    if 'TORCHELASTIC_RUN_ID' in os.environ or 'SLURM_PROCID' in os.environ or 'OMPI_COMM_WORLD_RANK' in os.environ:
        return 'the same command and --resume'
    program, *arguments = sys.argv
    program = program if program.startswith('mmyolo-ext ') else f'python {shlex.quote(program)}'
    return f'{program} {shlex.join([*(word for word in arguments if word != "--resume"), "--resume"])}'


def outcome(runner, path: str | None) -> str:
    """Return a sentence about what was saved, in ``path``, or the last good checkpoint, and how to resume."""
    if path:
        return f'Saved {path}. Resume with: {resume_command()}'
    if runner.rank > 0:
        return 'Rank 0 saves the checkpoint'
    newest = runner.checkpoints.newest() if runner.checkpoints is not None else None
    if newest:
        return f'Nothing was saved; the last good checkpoint is {newest}. Resume with: {resume_command()}'
    return 'There is no checkpoint to resume from'


def _place(runner) -> str:
    """Return epoch and iteration, counted from 1."""
    loop = runner.train_loop
    done = loop.epoch * len(loop.dataloader) if isinstance(loop, EpochBasedTrainLoop) else 0
    return f'epoch {loop.epoch + 1}, iteration {loop.iter - done}'


@contextmanager
def signal_handlers(handlers: dict[int, Callable], kept_after: tuple[type[BaseException], ...] = ()) -> Iterator[None]:
    """Set signal handlers until the block ends other than by ``kept_after``; no effect outside of the main thread."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    except kept_after:
        before.clear()
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
