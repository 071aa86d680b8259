"""Keep a second training out of a work dir."""

import errno
import os
import socket
import time
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None

LOCK = '.lock'
ATTEMPTS, SECONDS_BETWEEN = 3, 0.1
UNSUPPORTED = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


class WorkDirLock:
    """A lock on a work dir that ends with the process, however it ends.

    The lock belongs to the open file ``.lock``, so a killed process leaves none behind; the file stays. Forked
    processes, such as workers of a data loader that outlive a killed parent, close their copy at once.

    Args:
        work_dir: An existing folder.

    Raises:
        ValueError: Another process holds the lock; it is named.
    """

    def __init__(self, work_dir: str | Path) -> None:
        self.supported = True
        self._file = (Path(work_dir) / LOCK).open('a+', encoding='utf-8')
        try:
            self._take()
        except OSError as error:
            holder = _described(self._file)
            if error.errno in UNSUPPORTED:
                self.supported = False  # by the file system
                return
            self._file.close()
            raise ValueError(
                f'the work dir {work_dir} is in use by another training ({holder}): wait until it ends, stop it, or '
                'choose another folder by --work-dir'
            ) from error
        self._file.truncate(0)
        self._file.write(f'process {os.getpid()} on {socket.gethostname()} since {time.strftime("%Y-%m-%d %H:%M:%S")}')
        self._file.flush()
        HELD.add(self)

    def _take(self) -> None:
        if fcntl is None:
            raise OSError(errno.ENOSYS, 'this system has no file locks')
        for attempt in range(ATTEMPTS):
            try:
                return fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if attempt == ATTEMPTS - 1:
                    raise
                time.sleep(SECONDS_BETWEEN)  # is_locked may be looking

    def release(self) -> None:
        """Let others in."""
        HELD.discard(self)
        self._file.close()


def is_locked(work_dir: str | Path) -> bool:
    """Return whether a training holds the lock of a work dir."""
    if fcntl is None:
        return False
    try:
        with (Path(work_dir) / LOCK).open(encoding='utf-8') as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # there is no such file, or the file system has no locks
        return False
    return False


def _described(file) -> str:
    file.seek(0)
    return file.read(200).strip() or 'unknown'


def _close_in_child() -> None:
    for lock in list(HELD):
        lock.release()


HELD: 'weakref.WeakSet[WorkDirLock]' = weakref.WeakSet()
if fcntl is not None:
    os.register_at_fork(after_in_child=_close_in_child)
