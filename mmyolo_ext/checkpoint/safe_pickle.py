"""Read pickles without calling anything that a file names.

The unpickler is Python's own, with every instruction replaced that makes, calls or changes an object.
"""

import io
import pickle
import re
import struct
from collections import OrderedDict
from typing import Any, BinaryIO

import torch

from mmyolo_ext.checkpoint.pickle_objects import Builder, RefusedError, StandIn, build, resolve, set_state

PICKLE_START = b'\x80'


class SafeUnpickler(pickle._Unpickler):
    """Unpickler of one pickle.

    A pickle that asks for anything but data raises :class:`RefusedError`, a damaged one any other exception.
    """

    sizes: dict[str, int]  # bytes of each storage that are known, by its key
    left: int  # bytes of the file for storages of unknown size

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, without importing anything; see :func:`resolve`."""
        return NESTED_STORAGE if (module, name) == ('torch.storage', '_load_from_bytes') else resolve(module, name)

    def get_extension(self, code: int) -> None:
        """Refuse numbers that stand for names in a table of the process."""
        raise RefusedError(f'the extension {code}')

    def load_bytearray8(self) -> None:
        # Python's own allocates the stated length before it reads
        (length,) = struct.unpack('<Q', self.read(8))
        self.append(bytearray(self.read(length)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = build(self.stack[-1], args)

    load_newobj = load_reduce

    def load_newobj_ex(self) -> None:
        kwargs, args = self.stack.pop(), self.stack.pop()
        self.stack[-1] = build(self.stack[-1], args, kwargs)

    def _instantiate(self, klass: Any, args: list) -> None:
        """Build an object for the instructions INST and OBJ."""
        self.append(build(klass, tuple(args)))

    def load_build(self) -> None:
        state = self.stack.pop()
        set_state(self.stack[-1], state)

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def load_additems(self) -> None:
        values = self.pop_mark()
        if type(self.stack[-1]) is set:
            self.stack[-1].update(values)
        else:
            self._extend(values)

    def load_persid(self) -> None:
        raise RefusedError('a storage named by text')

    def load_binpersid(self) -> None:
        saved = self.stack.pop()
        # a class with its source, as files from before torch 1.6 have it
        is_module = type(saved) is tuple and len(saved) == 4 and saved[0] in ('module', b'module')
        self.append(saved[1] if is_module else self.persistent_load(self._checked_storage(saved)))

    def _extend(self, values: list) -> None:
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.items.extend(values)
        elif type(target) is list:
            target.extend(values)
        else:
            raise RefusedError(f'items for {type(target).__name__}')

    def _update(self, flat: list) -> None:
        pairs = list(zip(flat[::2], flat[1::2], strict=True))
        target = self.stack[-1]
        if isinstance(target, StandIn):
            target.items.extend(pairs)
        elif type(target) in (dict, OrderedDict):
            target.update(pairs)
        else:
            raise RefusedError(f'items for {type(target).__name__}')

    def _checked_storage(self, saved: Any) -> tuple:
        # ('storage', type, key, device, number of elements[, view])
        if type(saved) is not tuple or len(saved) not in (5, 6) or saved[0] not in ('storage', b'storage'):
            raise RefusedError('a persistent id that is not a storage')
        kind, key, count = saved[1], saved[2], saved[4]
        dtype = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, 'dtype', None)
        if (
            not isinstance(dtype, torch.dtype)
            or type(count) is not int
            or count < 0
            or not (isinstance(key, str) and re.fullmatch(r'\w+', key))
        ):
            raise RefusedError('a storage without type and size')
        size = count * dtype.itemsize
        if key not in self.sizes and size <= self.left:
            self.left -= size
            self.sizes[key] = size
        if size > self.sizes.get(key, self.left):
            raise ValueError(f'the storage {key} should have {size} bytes, which the file does not hold')
        return saved


# the instructions call methods by this table
SafeUnpickler.dispatch = {
    code: getattr(SafeUnpickler, method.__name__) for code, method in pickle._Unpickler.dispatch.items()
}


class PickleModule:
    """Replacement of the module ``pickle`` in ``torch.load``, which reads the storages of tensors itself.

    Args:
        sizes: Bytes that the file holds for each storage, by its key.
        left: Bytes that it holds for all other storages together.
    """

    __name__ = 'mmyolo_ext.checkpoint.safe_pickle'

    def __init__(self, sizes: dict[str, int], left: int = 0) -> None:
        self.Unpickler = type('Unpickler', (SafeUnpickler,), {'sizes': sizes, 'left': left})

    def load(self, file: BinaryIO, **kwargs: Any) -> Any:
        """Read one pickle, and leave the file at its end."""
        return self.Unpickler(file, **kwargs).load()


def load_legacy(content: bytes, map_location: Any = 'cpu') -> Any:
    """Read the format of torch before 1.6, still used for a storage in a plain pickle: four pickles, then the data.

    It reads from memory, because torch would first try to unpack a file on disk as a tar archive.
    """
    return torch.load(io.BytesIO(content), map_location, PickleModule({}, len(content)), weights_only=False)


def _nested_storage(content: Any) -> Any:
    if not isinstance(content, bytes) or content[:1] != PICKLE_START:
        raise RefusedError('a storage that is not as torch writes it')
    return load_legacy(content)


NESTED_STORAGE = Builder(_nested_storage)
