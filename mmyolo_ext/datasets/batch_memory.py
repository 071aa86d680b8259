"""The memory of a batch's pictures, filled a sample at a time.

A sample is written where its batch will read it while its pixels are still in the processor's cache; stacking the
finished samples would fetch them all once more. Letters: N samples, C, H, W.
"""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

KEPT = 2  # arrays: the one at work and the next
UNUSED = 3  # references: of the list, the loop and the question itself


class BatchMemory:
    """Room for ``samples`` pictures of one shape, that of the first."""

    def __init__(self, samples: int) -> None:
        self._samples, self._taken, self._whole = samples, 0, None

    def take(self, shape: Sequence[int]) -> Tensor:
        """The next place (C, H, W) uint8; where none is left or the shape is another, memory of its own."""
        if self._whole is None:
            self._whole = empty_batch((self._samples, *shape))
        if self._taken == self._samples or self._whole.shape[1:] != shape:
            return torch.empty(shape, dtype=torch.uint8)
        self._taken += 1
        return self._whole[self._taken - 1]


_current: ContextVar[BatchMemory | None] = ContextVar('batch_memory', default=None)


@contextmanager
def one_batch(samples: int) -> Iterator[None]:
    """Within, :func:`take_place` hands out places of one tensor for ``samples`` pictures."""
    token = _current.set(BatchMemory(samples))
    try:
        yield
    finally:
        _current.reset(token)


def take_place(shape: Sequence[int]) -> Tensor:
    """Memory (C, H, W) uint8 for the next picture, in its batch where one is being made; not set to anything."""
    memory = _current.get()
    return torch.empty(shape, dtype=torch.uint8) if memory is None else memory.take(shape)


def whole_batch(pictures: Sequence[Tensor]) -> Tensor | None:
    """(N, C, H, W) if the pictures are all the places of one batch, in their order; else None."""
    whole = pictures[0]._base
    if whole is None or whole.shape != (len(pictures), *pictures[0].shape):
        return None
    step, size = whole.stride(0), whole.shape[1:]
    in_place = all(
        one._base is whole and one.storage_offset() == place * step and one.shape == size and one.is_contiguous()
        for place, one in enumerate(pictures)
    )
    return whole if in_place else None


def empty_batch(shape: Sequence[int]) -> Tensor:
    """An uint8 tensor, not set to anything; a loader's worker gets memory that goes to the main process without a
    copy, as in PyTorch's own ``default_collate``."""
    if get_worker_info() is None:
        return torch.from_numpy(_free_array(tuple(shape)))
    storage = torch.UntypedStorage._new_shared(torch.Size(shape).numel())
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


_arrays: list[np.ndarray] = []


def _free_array(shape: tuple[int, ...]) -> np.ndarray:
    """An array that no tensor looks at any more, or a new one.

    The system clears memory before it hands it out, which takes longer than to write the pictures. A tensor and its
    views, whoever holds them, count as one reference to their array.
    """
    for array in _arrays:
        if array.shape == shape and sys.getrefcount(array) == UNUSED:
            return array
    _arrays.append(np.empty(shape, np.uint8))
    del _arrays[:-KEPT]
    return _arrays[-1]
