"""Read pickles without calling anything that a file names.

The unpickler is Python's own, with every instruction replaced that makes, calls or changes an object.
"""

import io
import pickle
import re
import struct
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, BinaryIO

import torch

from mmyolo_ext.checkpoint.pickle_objects import Builder, RefusedError, StandIn, build, resolve, set_state

PICKLE_START = b'\x80'


class SafeUnpickler(pickle._Unpickler):
    """Unpickler of one pickle.

    A pickle that asks for anything but data raises :class:`RefusedError`, a damaged one any other exception.
    """

    total_bytes: int | None = None  # of all storages together; None where storage_bytes limits each

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Return what a name stands for, without importing anything; see :func:`resolve`."""
        return NESTED_STORAGE if (module, name) == ('torch.storage', '_load_from_bytes') else resolve(module, name)

    def get_extension(self, code: int) -> None:
        """Refuse numbers that stand for names in a table of the process."""
        raise RefusedError(f'the extension {code}')

    def storage_bytes(self, key: Any) -> int | None:
        """Return the number of bytes that the file holds for a storage; None where it does not hold any."""
        return None

    def load_bytearray8(self) -> None:
        # Python's own allocates the stated length before it reads
        (length,) = struct.unpack('<Q', self.read(8))
        self.append(bytearray(self.read(length)))

    def load_reduce(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = build(self.stack[-1], args)

    def load_newobj(self) -> None:
        args = self.stack.pop()
        self.stack[-1] = build(self.stack[-1], args)

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
        value = self.stack.pop()
        self._extend([value])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def load_additems(self) -> None:
        values = self.pop_mark()
        target = self.stack[-1]
        if type(target) is set:
            target.update(values)
        else:
            self._extend(values)

    def load_persid(self) -> None:
        raise RefusedError('a storage named by text')

    def load_binpersid(self) -> None:
        saved = self.stack.pop()
        self.append(saved[1] if self._is_module(saved) else self.persistent_load(self._checked_storage(saved)))

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

    @staticmethod
    def _is_module(saved: Any) -> bool:
        """Return whether an entry is a class with its source, as files from before torch 1.6 have it."""
        return type(saved) is tuple and len(saved) == 4 and saved[0] in ('module', b'module')

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
        held = self.storage_bytes(key)
        if held is not None and count * dtype.itemsize > held:
            raise ValueError(f'the storage {key} should have {count} x {dtype}, of which the file holds {held} bytes')
        if self.total_bytes is not None:
            claimed = self.__dict__.setdefault('claimed', {})
            self.sum_claimed = getattr(self, 'sum_claimed', 0) + max(count * dtype.itemsize - claimed.get(key, 0), 0)
            claimed[key] = max(count * dtype.itemsize, claimed.get(key, 0))
            if self.sum_claimed > self.total_bytes:
                raise ValueError(f'the storages should have more bytes together than the file, {self.total_bytes}')
        return saved


for _code, _name in {
    pickle.REDUCE: 'load_reduce',
    pickle.NEWOBJ: 'load_newobj',
    pickle.NEWOBJ_EX: 'load_newobj_ex',
    pickle.BUILD: 'load_build',
    pickle.APPEND: 'load_append',
    pickle.APPENDS: 'load_appends',
    pickle.SETITEM: 'load_setitem',
    pickle.SETITEMS: 'load_setitems',
    pickle.ADDITEMS: 'load_additems',
    pickle.PERSID: 'load_persid',
    pickle.BINPERSID: 'load_binpersid',
    pickle.BYTEARRAY8: 'load_bytearray8',
}.items():
    SafeUnpickler.dispatch[_code[0]] = getattr(SafeUnpickler, _name)


class PickleModule:
    """Replacement of the module ``pickle`` in ``torch.load``, which reads the storages of tensors itself.

    Args:
        storage_bytes: Returns the number of bytes that the file holds for the storage of a key.
        total_bytes: Number of bytes of all storages, where only their sum is known.
    """

    __name__ = 'mmyolo_ext.checkpoint.safe_pickle'

    def __init__(self, storage_bytes: Callable[[Any], int], total_bytes: int | None = None) -> None:
        limits = {'storage_bytes': staticmethod(storage_bytes), 'total_bytes': total_bytes}
        self.Unpickler = type('Unpickler', (SafeUnpickler,), limits)

    def load(self, file: BinaryIO, **kwargs: Any) -> Any:
        """Read one pickle, and leave the file at its end."""
        return self.Unpickler(file, **kwargs).load()


def load_legacy(content: bytes, map_location: Any = 'cpu') -> Any:
    """Read the format of torch before 1.6, still used for a storage in a plain pickle: four pickles, then the data.

    It reads from memory, because torch would first try to unpack a file on disk as a tar archive.
    """
    module = PickleModule(lambda key: len(content), len(content))
    return torch.load(io.BytesIO(content), map_location, module, weights_only=False)


def _nested_storage(content: Any) -> Any:
    if not isinstance(content, bytes) or content[:1] != PICKLE_START:
        raise RefusedError('a storage that is not as torch writes it')
    return load_legacy(content)


NESTED_STORAGE = Builder(_nested_storage)
