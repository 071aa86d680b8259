"""Collate samples without copies, and send batches from workers in shared memory that is reused.

:class:`PackInputs` writes each image straight into the tensor of its batch (:func:`empty_image`); :func:`stack_inputs`
returns that tensor. The memory of a batch is reused once no tensor, view or array refers to it.

PyTorch creates a file of shared memory for each tensor of each batch. Here, a worker keeps a few blocks of shared
memory. The main process receives each block once, and only its number afterwards. The first byte of a block tells
whether the main process uses it: the worker sets it on sending, the main process clears it when nothing refers to
the batch. References inside the worker are tracked there.

Letters: N samples, C channels, H height, W width.
"""

import io
import math
import multiprocessing
import operator
import os
import pickle
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from multiprocessing.reduction import ForkingPickler
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.dataset import pseudo_collate
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info

from mmyolo_ext.registry import FUNCTIONS

MAX_BLOCKS = 8  # of a worker: one being filled, two waiting for the main process, one or two in use there, and spares
HEADER = 64  # bytes before the pixels, one cache line
FREE, IN_USE = 0, 1
SMALL = 1 << 16  # bytes; smaller tensors are copied into the message of the batch


_batch: ContextVar[dict | None] = ContextVar('batch', default=None)


@contextmanager
def one_batch(num_samples: int) -> Iterator[None]:
    """Let :func:`empty_image` return parts of one batch tensor within the context."""
    token = _batch.set({'num_samples': num_samples})
    try:
        yield
    finally:
        _batch.reset(token)


def empty_image(shape: Sequence[int]) -> Tensor:
    """Return an uninitialised uint8 tensor (C, H, W): the next image of the batch inside :func:`one_batch`."""
    batch = _batch.get()
    if batch is not None:
        if 'images' not in batch:  # the first image decides the shape
            batch['images'] = list(empty_batch((batch['num_samples'], *shape)))
        if batch['images'] and batch['images'][0].shape == torch.Size(shape):
            return batch['images'].pop(0)
    return torch.empty(shape, dtype=torch.uint8)


@FUNCTIONS.register_module()
def stack_inputs(samples: Sequence[dict]) -> dict:
    """Collate samples: ``inputs`` as one tensor if all have the same size, everything else as ``pseudo_collate``.

    Images that :class:`PackInputs` wrote into their batch are not copied. From a worker, ``inputs`` is sent in shared
    memory and everything else in one message.

    Args:
        samples: (N) results of a pipeline, with ``inputs`` (C, H, W).

    Returns:
        The batch, with ``inputs`` (N, C, H, W), or a list of tensors if the sizes differ.
    """
    batch = pseudo_collate(samples)
    inputs = batch['inputs']
    if len({(image.shape, image.dtype) for image in inputs}) > 1:
        return batch
    whole = _whole_batch(inputs)
    batch['inputs'] = default_collate(inputs) if whole is None else whole
    return batch if get_worker_info() is None else _WorkerBatch(batch)


def _whole_batch(images: Sequence[Tensor]) -> Tensor | None:
    """Return the batch tensor (N, C, H, W) if the images are all its parts in order, else None."""
    whole = images[0]._base
    if whole is None or len(whole) != len(images):
        return None
    places = ((part.data_ptr(), part.shape, part.stride()) for part in whole)
    found = ((image.data_ptr(), image.shape, image.stride()) for image in images)
    return whole if all(map(operator.eq, places, found)) else None


def _lend(memory: np.ndarray, shape: Sequence[int], give_back: Callable[[], object]) -> Tensor:
    """Return a uint8 tensor on the first bytes of ``memory``; call ``give_back`` when nothing refers to it."""
    pixels = memory[: math.prod(shape)].reshape(shape)
    weakref.finalize(pixels, give_back).atexit = False  # all views of the tensor hold this array
    return torch.from_numpy(pixels)


class Message(NamedTuple):
    """What is sent for a tensor in a block; ``block``, (bytes) uint8, only the first time."""

    process: int
    number: int
    shape: tuple[int, ...]
    block: Tensor | None


class _Block:
    """A block of memory of this process; in a worker, it is shared."""

    def __init__(self, size: int) -> None:
        new_storage = torch.UntypedStorage if get_worker_info() is None else torch.UntypedStorage._new_shared
        self.tensor = torch.empty(0, dtype=torch.uint8).set_(new_storage(HEADER + size))
        self.bytes = self.tensor.numpy()
        self.bytes[0] = FREE
        self.is_known = False  # to the main process
        self._is_held = False  # by this process

    @property
    def is_free(self) -> bool:
        return not self._is_held and self.bytes[0] == FREE

    def take(self, shape: Sequence[int]) -> Tensor:
        self._is_held = True
        return _lend(self.bytes[HEADER:], shape, self._release)

    def _release(self) -> None:
        self._is_held = False

    def send(self) -> Tensor | None:
        """Mark the block as used by the main process; return it if the main process does not have it yet."""
        known, self.is_known = self.is_known, True
        self.bytes[0] = IN_USE
        return None if known else self.tensor


_own: list[_Block] = []
if hasattr(os, 'register_at_fork'):  # not on Windows, which does not fork
    os.register_at_fork(after_in_child=lambda: _own.clear())  # a worker has blocks of its own
_received: dict[tuple[int, int], np.ndarray] = {}  # (process, number) -> block


def empty_batch(shape: Sequence[int]) -> Tensor:
    """Return an uninitialised uint8 tensor in a free block of this process, or in new memory if none is free."""
    size = math.prod(shape)
    free = [block for block in _own if block.is_free]
    for block in free:
        if len(block.bytes) >= HEADER + size:
            return block.take(shape)
    block = _Block(size)
    if len(_own) < MAX_BLOCKS:
        _own.append(block)
    elif free:  # replace a block that is too small, under its number
        _own[_own.index(free[0])] = block
    else:
        return block.tensor[HEADER:].view(shape)
    return block.take(shape)


def as_message(tensor: Tensor) -> Tensor | Message:
    """Return what to send for a tensor: a message if it starts a block that is not sent yet, else the tensor."""
    for number, block in enumerate(_own):
        if tensor.data_ptr() == block.bytes.ctypes.data + HEADER and tensor.is_contiguous() and block.bytes[0] == FREE:
            return Message(os.getpid(), number, tuple(tensor.shape), block.send())
    return tensor


def received(message: Message) -> Tensor:
    """Return the tensor of a message; its block is free again when nothing refers to the tensor."""
    key, process = message[:2], os.getpid()
    if message.block is not None:
        alive = {child.pid for child in multiprocessing.active_children()}
        for other in [other for other in _received if other[0] not in alive]:
            del _received[other]
        _received[key] = message.block.numpy()
    memory = _received[key]

    def give_back() -> None:
        if os.getpid() == process:  # not in a worker that was forked while the batch was in use
            memory[0] = FREE

    return _lend(memory[HEADER:], message.shape, give_back)


class _WorkerBatch(dict):
    """A batch that is pickled into one message, with small tensors inside, and unpickled as a plain dict."""

    def __reduce__(self) -> tuple:
        batch = dict(self)
        if isinstance(batch.get('inputs'), Tensor):
            batch['inputs'] = as_message(batch['inputs'])
        file = io.BytesIO()
        _Pickler(file).dump(batch)
        return _unpickle, (file.getvalue(),)


def _unpickle(content: bytes) -> dict:
    batch = pickle.loads(content)
    if isinstance(batch.get('inputs'), Message):
        batch['inputs'] = received(batch['inputs'])
    return batch


class _Pickler(ForkingPickler):
    """PyTorch's pickler, which shares the memory of tensors, except for small ones, which are copied."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) is not Tensor or obj.layout is not torch.strided or obj.nbytes > SMALL or obj.is_shared():
            return NotImplemented
        try:
            return torch.from_numpy, (obj.numpy(),)
        except (TypeError, RuntimeError):  # bfloat16, tensors with gradients or on other devices
            return NotImplemented
