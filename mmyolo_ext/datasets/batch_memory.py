"""The memory of a batch's pictures, filled a sample at a time.

A sample is written where its batch will read it while its pixels are still in the processor's cache; stacking the
finished samples would fetch them all once more. Letters: N samples, C, H, W.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from .reused_memory import reused
from .shared_blocks import take_block


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
    """A uint8 tensor, not set to anything; a loader's worker gets memory that goes to the main process without a
    copy."""
    return reused(shape) if get_worker_info() is None else take_block(shape)
