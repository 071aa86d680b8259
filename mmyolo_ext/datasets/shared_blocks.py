"""Shared memory in which workers hand pictures to the main process, used again and again.

PyTorch makes a file of shared memory for each batch and throws it away with the batch: the system clears every page of
it for the worker and maps each into both processes. Here a worker keeps a few blocks and reuses them. A block is sent
to the main process once, as PyTorch sends it; after that, only its number is. Its first byte says whether the main
process is using it: the worker sets it, the main process clears it when nothing refers to the batch any more. The
worker tracks its own references itself.
"""

import math
import multiprocessing
import os
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .reused_memory import lend

KEPT = 8  # blocks of a worker; one is made into, two wait for the main process, one or two are at work there
HEAD = 64  # bytes before the pixels, which start where a line of the processor's cache does
FREE, TAKEN = 0, 1


class Message(NamedTuple):
    """What is sent for a tensor that lies in a block: whose block, its number, the shape of the tensor; and the block
    itself, (bytes) uint8, the first time."""

    process: int
    number: int
    shape: tuple[int, ...]
    block: Tensor | None


class _Block:
    """One of the blocks of this process."""

    def __init__(self, size: int) -> None:
        storage = torch.UntypedStorage._new_shared(HEAD + size)
        self.tensor = torch.empty(0, dtype=torch.uint8).set_(storage)
        self.bytes = self.tensor.numpy()
        self.is_known = False  # to the main process
        self._is_held = False  # by this one

    @property
    def is_sent(self) -> bool:
        return self.bytes[0] == TAKEN

    @property
    def is_free(self) -> bool:
        return not (self._is_held or self.is_sent)

    def take(self, shape: Sequence[int]) -> Tensor:
        self._is_held = True
        return lend(self.bytes[HEAD:], shape, self._left)

    def send(self) -> Tensor | None:
        """The block, if the main process does not have it yet; from now on it is the main process's to clear."""
        known, self.is_known = self.is_known, True
        self.bytes[0] = TAKEN
        return None if known else self.tensor

    def _left(self) -> None:
        self._is_held = False


_own: list[_Block] = []
_received: dict[tuple[int, int], np.ndarray] = {}


def take_block(shape: Sequence[int]) -> Tensor:
    """A uint8 tensor in a block of this worker, not set to anything; in shared memory of its own, where all are
    taken."""
    size = math.prod(shape)
    free = [block for block in _own if block.is_free]
    for block in free:
        if len(block.bytes) >= HEAD + size:
            return block.take(shape)
    block = _Block(size)
    if len(_own) < KEPT:
        _own.append(block)
    elif free:  # too small; the new one has its number from now on
        _own[_own.index(free[0])] = block
    else:
        return block.tensor[HEAD:].view(shape)
    return block.take(shape)


def as_message(tensor: Tensor) -> Tensor | Message:
    """What to send for a tensor: itself, unless it starts where a block does that was not sent yet."""
    for number, block in enumerate(_own):
        if tensor.data_ptr() == block.bytes.ctypes.data + HEAD and tensor.is_contiguous() and not block.is_sent:
            return Message(os.getpid(), number, tuple(tensor.shape), block.send())
    return tensor


def received(message: Message) -> Tensor:
    """The tensor a message was made for."""
    key, process = message[:2], os.getpid()
    if message.block is not None:
        _forget_ended_workers()
        _received[key] = message.block.numpy()
    memory = _received[key]

    def give_back() -> None:
        if os.getpid() == process:  # not in a worker that was forked while the batch was looked at
            memory[0] = FREE

    return lend(memory[HEAD:], message.shape, give_back)


def _forget_ended_workers() -> None:
    alive = {child.pid for child in multiprocessing.active_children()}
    for key in [key for key in _received if key[0] not in alive]:
        del _received[key]
