"""Tensors of a pickle, rebuilt from storages; hooks and attributes that the file hangs on them are left out."""

import math
from collections import OrderedDict
from typing import Any

import torch
from torch import Tensor, nn

from mmyolo_ext.compat.inert import RefusedError

# an expanded tensor has more elements than its storage; a harmless one is not that large
MOST_EXPANDED = 2**24


def make_tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None, bits: Any = None
) -> Tensor:
    """A view of a storage.

    Raises:
        RefusedError: the arguments are not numbers, or the view reaches beyond the storage.
    """
    numbers = [size, stride, (offset,)]
    if (
        not isinstance(storage, torch.storage.TypedStorage)
        or not all(_whole_numbers(part) for part in numbers)
        or bits
    ):
        raise RefusedError('a tensor that is not a view of a storage')
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    count = math.prod(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    # torch itself would enlarge the storage, by whatever the memory holds
    if count and last >= held or count > max(held, MOST_EXPANDED):
        raise RefusedError(f'a tensor of {tuple(size)} elements from a storage of {held}')
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad is True, OrderedDict())


def make_parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> nn.Parameter:
    """A parameter from its tensor."""
    if not isinstance(data, Tensor):
        raise RefusedError('a parameter that is not a tensor')
    return nn.Parameter(data, requires_grad is True)


def make_size(sides: Any = ()) -> torch.Size:
    """A shape."""
    if not _whole_numbers(sides):
        raise RefusedError(f'a shape {sides!r}')
    return torch.Size(sides)


def make_device(kind: Any, index: Any = None) -> torch.device:
    """A device by its name."""
    if not isinstance(kind, str) or not (index is None or type(index) is int):
        raise RefusedError(f'a device {kind!r}')
    return torch.device(kind) if index is None else torch.device(kind, index)


def find_dtype(module: str, name: str) -> torch.dtype | None:
    """``torch.float16`` and its like; None for any other name."""
    value = vars(torch).get(name) if module == 'torch' else None
    return value if isinstance(value, torch.dtype) else None


def _whole_numbers(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(type(value) is int and value >= 0 for value in values)
