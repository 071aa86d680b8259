"""A reader of pickles that calls nothing that a file names.

Python's own reader in Python, with every instruction replaced that makes, calls or changes an object.
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
    """Reads one pickle.

    What it refuses raises :class:`RefusedError`, a damaged pickle anything else.
    """

    dispatch = dict(pickle._Unpickler.dispatch)

    def find_class(self, module: str, name: str) -> Any:
        """Never imports anything, see :func:`resolve`."""
        return NESTED_STORAGE if (module, name) == ('torch.storage', '_load_from_bytes') else resolve(module, name)

    def get_extension(self, code: int) -> None:
        """Numbers that stand for names in a table of the process."""
        raise RefusedError(f'the extension {code}')

    def storage_room(self, key: Any) -> int | None:
        """How many bytes a storage can have; None where the file does not hold any."""
        return None

    def total_room(self) -> int | None:
        """How many bytes all storages can have together; None where :meth:`storage_room` limits each."""
        return None

    def load_bytearray8(self) -> None:
        # Python's own makes an array of the stated length before it reads
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
        """Of the instructions INST and OBJ."""
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
        """Before torch 1.6 a class of modules came with its source, which torch would compare with files here."""
        return type(saved) is tuple and len(saved) == 4 and saved[0] in ('module', b'module')

    def _checked_storage(self, saved: Any) -> tuple:
        # ('storage', type, key, device, number of elements[, view])
        if type(saved) is not tuple or len(saved) not in (5, 6) or saved[0] not in ('storage', b'storage'):
            raise RefusedError('a persistent id that is not a storage')
        kind, key, count = saved[1], saved[2], saved[4]
        dtype = torch.uint8 if kind is torch.UntypedStorage else getattr(kind, 'dtype', None)
        if not isinstance(dtype, torch.dtype) or type(count) is not int or count < 0 or not _is_key(key):
            raise RefusedError('a storage without type and size')
        room = self.storage_room(key)
        if room is not None and count * dtype.itemsize > room:
            raise ValueError(f'the storage {key} should have {count} x {dtype}, of which the file holds {room} bytes')
        if self.total_room() is not None:
            claimed = self.__dict__.setdefault('claimed', {})
            self.sum_claimed = getattr(self, 'sum_claimed', 0) + max(count * dtype.itemsize - claimed.get(key, 0), 0)
            claimed[key] = max(count * dtype.itemsize, claimed.get(key, 0))
            if self.sum_claimed > self.total_room():
                raise ValueError(f'the storages should have more bytes together than the file, {self.total_room()}')
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
    """Stands for the module ``pickle`` in ``torch.load``, which finds the storages of tensors by itself.

    Args:
        storage_room: how many bytes the file holds for the storage of a key.
        total: and for all of them, where that is known of all alone.
    """

    __name__ = 'mmyolo_ext.checkpoint.safe_pickle'

    def __init__(self, storage_room: Callable[[Any], int], total: int | None = None) -> None:
        class Unpickler(SafeUnpickler):
            def total_room(self) -> int | None:
                return total

            def storage_room(self, key: Any) -> int:
                return storage_room(key)

        self.Unpickler = Unpickler

    def load(self, file: BinaryIO, **kwargs: Any) -> Any:
        """One pickle, the file left where it ends."""
        return self.Unpickler(file, **kwargs).load()


def load_legacy(content: bytes, map_location: Any = 'cpu') -> Any:
    """What torch wrote before 1.6, and writes still for a storage in a plain pickle: four pickles, then the numbers.

    From memory: of a file on disk torch would first try whether it is a tar archive, and unpack it.
    """
    module = PickleModule(lambda key: len(content), len(content))
    return torch.load(io.BytesIO(content), map_location, module, weights_only=False)


def _nested_storage(content: Any) -> Any:
    if not isinstance(content, bytes) or content[:1] != PICKLE_START:
        raise RefusedError('a storage that is not as torch writes it')
    return load_legacy(content)


NESTED_STORAGE = Builder(_nested_storage)


def _is_key(key: Any) -> bool:
    return isinstance(key, str) and bool(re.fullmatch(r'\w+', key))
