"""Freed memory is there again without the system."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from mmyolo_ext.cli.common import keep_freed_memory
def step():
    tensors = [torch.ones(2**20 * size) for size in (3, 10)]  # 12 and 40 MB
def faults():
    for _ in range(4):  # the heap grows to its size
        step()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    step(), step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
without = faults()
assert keep_freed_memory() is True
print(without, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="glibc's malloc")
def test_the_pages_of_a_step_serve_the_next():
    done = subprocess.run([sys.executable, '-c', SCRIPT], check=True, capture_output=True, text=True)
    without, kept = map(int, done.stdout.split()[-2:])
    # without, at least the 40 MB of each step, in pages of at most 2 MB
    assert without >= 2 * 20 and kept < without / 4


def test_another_malloc_is_left_alone(monkeypatch):
    from mmyolo_ext.cli import common as memory

    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: object())
    assert memory.keep_freed_memory() is False
