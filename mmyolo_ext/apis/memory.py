"""Memory that a step gives back is kept for the next one."""

import ctypes

# of malloc.h in glibc
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
NEVER, AT_ONCE = 2**31 - 1, 64 << 20  # bytes


def keep_freed_memory() -> bool:
    """From now on this process, and those it forks, give no freed memory back to the system; whether that can be had.

    glibc returns what a step has freed, and the next one gets it anew, page by page, each of which the system clears
    first: a tenth of a training step on a CPU. Kept, it is there. The process holds the most it ever needed, as
    PyTorch's own memory on a GPU does. Where malloc is another than glibc's, nothing changes.
    """
    mallopt = getattr(ctypes.CDLL(None), 'mallopt', None)
    if mallopt is None:
        return False
    # Large pieces too come from the heap, which grows by some megabytes at a time and never shrinks.
    settings = {MMAP_MAX: 0, TRIM_THRESHOLD: NEVER, TOP_PAD: AT_ONCE}
    return all(mallopt(name, value) for name, value in settings.items())
