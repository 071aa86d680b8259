"""Memory for the pictures of batch after batch.

The system clears memory before it hands it out, page by page, which takes longer than to write the pictures. So
that of a batch is used again, once nothing looks at it any more.
"""

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

KEPT = 2  # blocks: the one at work and the next

_free: list[np.ndarray] = []


def lend(memory: np.ndarray, shape: Sequence[int], give_back: Callable[[], object]) -> Tensor:
    """A uint8 tensor on the first of some bytes.

    Args:
        memory: (bytes) uint8.
        shape: Of the tensor.
        give_back: Called, in any thread, when the tensor is gone, and all that was made of it: views, arrays.
    """
    pixels = memory[: math.prod(shape)].reshape(shape)
    weakref.finalize(pixels, give_back).atexit = False  # the tensor, however it is cut, holds this very array
    return torch.from_numpy(pixels)


def reused(shape: Sequence[int]) -> Tensor:
    """A uint8 tensor in memory of this process that was used before, if there is some of its size; not set to
    anything."""
    size = math.prod(shape)
    place = next((place for place, memory in enumerate(_free) if len(memory) == size), None)
    memory = np.empty(size, np.uint8) if place is None else _free.pop(place)
    return lend(memory, shape, lambda: _keep(memory))


def _keep(memory: np.ndarray) -> None:
    _free.append(memory)
    del _free[:-KEPT]
