"""Freed memory is there again without the system."""

import subprocess
import sys

import pytest

SCRIPT = """
import resource, torch
from mmyolo_ext.cli.common import keep_freed_memory
assert {kept} is None or keep_freed_memory() is {kept}
def step():
    tensors = [torch.ones(2**20 * size) for size in (1, 3, 9, 20)]  # 4 to 80 MB, 132 MB in all
    for tensor in tensors:
        tensor.add_(1)
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(kept: bool | None) -> int:
    """Pages that five steps were given by the system."""
    done = subprocess.run([sys.executable, '-c', SCRIPT.format(kept=kept)], check=True, capture_output=True, text=True)
    return int(done.stdout.split()[-1])


@pytest.mark.skipif(not sys.platform.startswith('linux'), reason="glibc's malloc")
def test_the_pages_of_a_step_serve_the_next():
    # without, all 132 MB of each step; kept, at times one piece that no hole of the heap has room for
    assert faults(kept=True) < faults(kept=None) / 4


def test_another_malloc_is_left_alone(monkeypatch):
    from mmyolo_ext.cli import common as memory

    monkeypatch.setattr(memory.ctypes, 'CDLL', lambda name: object())
    assert memory.keep_freed_memory() is False
