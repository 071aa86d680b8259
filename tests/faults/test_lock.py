"""One training at a time in a work dir; a killed one leaves no lock."""

import os
import signal
import socket
import subprocess
import sys

import pytest
from toy_runner import toy_runner

from mmyolo_ext.checkpoint.lock import WorkDirLock, is_locked

HOLD = """
import os, sys
from mmyolo_ext.checkpoint.lock import WorkDirLock
lock = WorkDirLock(sys.argv[1])
child = os.fork()
if child == 0:
    sys.stdin.read()  # as a worker that outlives its parent
    os._exit(0)
print(child, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, '-c', HOLD, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.worker = int(process.stdout.readline())
    yield process
    process.kill()
    process.communicate()


def test_the_holder_is_named_and_its_death_frees_the_folder(tmp_path, holder):
    assert is_locked(tmp_path)
    with pytest.raises(ValueError, match=rf'in use by another training \(process {holder.pid} on .*--work-dir') as one:
        WorkDirLock(tmp_path)
    assert socket.gethostname() in str(one.value) and '\n' not in str(one.value)
    os.kill(holder.pid, signal.SIGKILL)
    os.waitpid(holder.pid, 0)
    os.kill(holder.worker, 0)  # is alive
    assert not is_locked(tmp_path)
    WorkDirLock(tmp_path).release()


def test_a_lock_can_be_taken_again_after_its_release(tmp_path):
    lock = WorkDirLock(tmp_path)
    assert is_locked(tmp_path)
    lock.release()
    assert not is_locked(tmp_path)


def test_a_training_in_a_folder_that_is_in_use_ends_with_one_line(tmp_path, holder):
    with pytest.raises(ValueError, match=rf'in use by another training \(process {holder.pid}'):
        toy_runner(tmp_path).train()
    assert not list(tmp_path.glob('*.pth')) and not list(tmp_path.glob('*.py')), 'nor its config overwritten'
