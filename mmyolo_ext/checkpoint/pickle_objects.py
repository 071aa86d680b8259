"""What the names in a checkpoint mean to us: data that is built, classes that are replaced, and the rest, refused.

A pickle builds objects by naming functions and classes of Python modules. Three kinds are told apart here, and nothing
is ever imported or looked up by a name that a file gives:

* data (:data:`ALLOWED`): a builder of our own, which checks what it is given;
* classes of other packages: a stand-in, which keeps what the file says and does nothing;
* everything of Python's own library, of torch and of NumPy that is not data, and packages that pickle code: refused.
  A stand-in would be as harmless, but a file that names ``os.system`` was made to be run.
"""

import _compat_pickle
import math
import re
import sys
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from torch import Tensor, nn


class RefusedError(ValueError):
    """A checkpoint asks for something that is not data."""


class StandIn:
    """An object of a class that is not loaded. It keeps what the file says of it, and does nothing.

    Its type bears the module and the name of the class, and nothing else of it.

    Attributes:
        args: what the object would have been made with; ``kwargs`` likewise.
        items: what would have been appended to it or, as pairs, set in it.
        state: its attributes by their names, or whatever else the file holds as its state; None if nothing.
    """

    __slots__ = ('args', 'items', 'kwargs', 'state')

    def __init__(self, args: tuple = (), kwargs: dict | None = None) -> None:
        self.args = args
        self.kwargs = kwargs or {}
        self.items: list = []
        self.state: Any = None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the object."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


@lru_cache(maxsize=4096)
def stand_in_class(module: str, name: str) -> type[StandIn]:
    """The type of the stand-ins for a class."""
    return type(name, (StandIn,), {'__module__': module, '__slots__': ()})


@dataclass(frozen=True, eq=False, slots=True)
class Builder:
    """Stands in the pickle for a class or function that makes data; what it is hung with by the file is refused."""

    build: Callable[..., Any]


def build(maker: Any, args: Any, kwargs: Any = None) -> Any:
    """Call a builder, or make a stand-in.

    Raises:
        RefusedError: ``maker`` is neither, or the builder does not take the arguments.
    """
    kwargs = kwargs or {}
    if type(args) is not tuple or type(kwargs) is not dict:
        raise RefusedError(f'a call with {type(args).__name__}')
    if type(maker) is Builder:
        return maker.build(*args, **kwargs)
    if isinstance(maker, type) and issubclass(maker, StandIn):
        return maker(args, kwargs)
    if isinstance(maker, StandIn):
        return type(maker)(args, kwargs)
    raise RefusedError(f'a call of {type(maker).__name__}')


# booleans, integers, floats, complex numbers, texts and dates; no Python objects, no fields
PLAIN_DTYPE = re.compile(r'[?bBhHiIlLqQefdgFDG]|[<>=|]?[biufcSUMm]\d+')


def make_dtype(code: Any, *flags: Any) -> np.dtype:
    """Of the code by which a pickle names it, such as ``'f8'``."""
    if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
        raise RefusedError(f'an array of dtype {code!r}, which is not plain numbers or text')
    return np.dtype(code)


def finish_dtype(dtype: np.dtype, state: Any) -> None:
    """Check the byte order that follows a dtype; one that is not this machine's cannot be read."""
    order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
    if order not in ('|', '=', '<' if np.little_endian else '>'):
        raise RefusedError(f'an array of byte order {order!r}')


def empty_array(*_: Any) -> np.ndarray:
    """What :func:`fill_array` fills."""
    return np.empty(0, np.int8)


def fill_array(array: np.ndarray, state: Any) -> None:
    """Give an array its content, in place: (version, shape, dtype, Fortran order, bytes)."""
    _, shape, dtype, fortran, content = state
    _check(shape, dtype, content)
    array.__setstate__((1, shape, dtype, bool(fortran), bytes(content)))


def array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    """As protocol 5 holds arrays."""
    _check(shape, dtype, content)
    return np.frombuffer(bytes(content), dtype).reshape(shape, order='F' if order == 'F' else 'C').copy('K')


def make_scalar(dtype: Any, content: Any = b'') -> np.generic:
    """One number of the dtype."""
    _check((), dtype, content)
    return np.frombuffer(bytes(content), dtype)[0]


def _check(shape: Any, dtype: Any, content: Any) -> None:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, (bytes, bytearray)):
        raise RefusedError('an array of objects')
    if not isinstance(shape, tuple) or not all(type(side) is int and side >= 0 for side in shape):
        raise RefusedError(f'an array of shape {shape!r}')
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f'an array of shape {shape} and {dtype} with {len(content)} bytes')


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


def set_state(target: Any, state: Any) -> None:
    """Give what was built its state, in place.

    Raises:
        RefusedError: it is nothing that has one; functions, classes and tensors cannot be changed by a file.
    """
    if isinstance(target, StandIn):
        _extend_state(target, state)
    elif type(target) is np.ndarray:
        fill_array(target, state)
    elif isinstance(target, np.dtype):
        finish_dtype(target, state)
    elif type(target) is HistoryBuffer and isinstance(state, dict):
        # its own way would take functions from the file
        logs, counts = (np.asarray(state.get(key, ())) for key in ('_log_history', '_count_history'))
        target.__init__(logs, counts, int(state.get('max_length', 1000000)))
    elif type(target) is OrderedDict and isinstance(state, dict):
        metadata = state.get('_metadata')
        if isinstance(metadata, dict) and all(isinstance(value, dict) for value in metadata.values()):
            target._metadata = metadata  # the versions of layers, which load_state_dict asks for
    else:
        raise RefusedError(f'a state for {type(target).__name__}')


def _extend_state(target: StandIn, state: Any) -> None:
    # attributes, and those of __slots__ after them
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
    if all(part is None or isinstance(part, dict) for part in parts):
        before = target.state if isinstance(target.state, dict) else {}
        target.state = {key: value for part in (before, *parts) if part for key, value in part.items()}
    else:
        target.state = state


CODE_PACKAGES = ('cloudpickle', 'dill', 'IPython', 'joblib', 'pip', 'pkg_resources', 'setuptools')
DATA_PACKAGES = ('numpy', 'torch')
# of the packages whose other names are refused, those that are only held, never called
STAND_IN_PREFIXES = (
    'argparse.Namespace',
    'decimal.Decimal',
    'enum.',
    'fractions.Fraction',
    'logging.',
    'numpy.random.',
    'random.Random',
    'torch.Generator',
    'torch.Tensor',
    'torch._C._nn.',
    'torch._tensor.Tensor',
    'torch.amp.',
    'torch.cuda.amp.',
    'torch.nn.',
    'torch.optim.',
    'types.SimpleNamespace',
    'uuid.',
)


def _plain(kind: type, *takes: type) -> Builder:
    """A builder of one of Python's types from at most one value, of that type or of those named."""

    def build(*values: Any) -> Any:
        if len(values) > 1 or not all(isinstance(value, (kind, *takes)) for value in values):
            raise RefusedError(f'{kind.__name__} of {[type(value).__name__ for value in values]}')
        return kind(*values)

    return Builder(build)


def _bytes(text: Any = b'', encoding: Any = 'latin1') -> bytes:
    """Protocol 2 writes bytes as a text of characters below 256."""
    if isinstance(text, bytes):
        return text
    if not isinstance(text, str) or encoding not in ('latin1', 'latin-1'):
        raise RefusedError(f'bytes from {type(text).__name__} by {encoding!r}')
    return text.encode('latin1')


def _path(kind: type) -> Builder:
    def build(*parts: Any) -> Any:
        if not all(isinstance(part, str) for part in parts):
            raise RefusedError('a path that is not text')
        return kind(*parts)

    return Builder(build)


def _attribute(owner: Any, name: Any) -> StandIn:
    """MMEngine pickles the functions that sum up a log as attributes of its class; nothing else may ask for one."""
    if owner is not HISTORY or not isinstance(name, str):
        raise RefusedError(f'getattr(..., {name!r}), which reaches for code')
    return StandIn((name,))


def _history(*args: Any) -> HistoryBuffer:
    if args:
        raise RefusedError('a HistoryBuffer with arguments')
    return HistoryBuffer()


def _reconstruct(kind: Any, base: Any, state: Any = None) -> Any:
    return build(kind, ())


def _new_object(kind: Any, *args: Any) -> Any:
    return build(kind, args)


def _new_object_with_names(kind: Any, args: Any, kwargs: Any) -> Any:
    return build(kind, args, kwargs)


def _tensor_of_type(function: Any, kind: Any, args: Any, state: Any) -> Any:
    return build(function, args)


def _nothing_of(value: Any = None) -> type:
    if value is not None:
        raise RefusedError('type(...)')
    return type(None)


HISTORY = Builder(_history)
_COLLECTIONS = (list, tuple, set, frozenset, dict)
_NUMBERS = (int, float, str)
_MAPPING = _plain(dict, list, tuple)
_TIMES = {kind.__name__: Builder(kind) for kind in (date, datetime, time, timedelta, timezone)}
_PATHS = {
    f'{module}.{prefix}{kind.__name__[4:]}': _path(kind)
    for module in ('pathlib', 'pathlib._local')
    for prefix in ('', 'Pure')
    for kind in (PurePosixPath, PureWindowsPath)
}

ALLOWED: dict[str, Any] = {
    'builtins.set': _plain(set, *_COLLECTIONS),
    'builtins.frozenset': _plain(frozenset, *_COLLECTIONS),
    'builtins.list': _plain(list, *_COLLECTIONS),
    'builtins.tuple': _plain(tuple, *_COLLECTIONS),
    'builtins.dict': _MAPPING,
    'builtins.int': _plain(int, *_NUMBERS),
    'builtins.float': _plain(float, *_NUMBERS),
    'builtins.bool': _plain(bool, *_NUMBERS),
    'builtins.complex': Builder(lambda real=0.0, imag=0.0: complex(float(real), float(imag))),
    'builtins.str': _plain(str),
    'builtins.bytes': Builder(_bytes),
    'builtins.bytearray': Builder(lambda *args: bytearray(_bytes(*args))),
    'builtins.slice': Builder(slice),
    'builtins.object': stand_in_class('builtins', 'object'),
    'builtins.type': Builder(_nothing_of),
    'builtins.getattr': Builder(_attribute),
    '_codecs.encode': Builder(_bytes),
    'collections.OrderedDict': _plain(OrderedDict, dict, list, tuple),
    'collections.defaultdict': Builder(lambda factory=None: {}),
    'collections.Counter': _MAPPING,
    'collections.deque': Builder(lambda values=(), limit=None: list(values)),
    'copyreg._reconstructor': Builder(_reconstruct),
    'copyreg.__newobj__': Builder(_new_object),
    'copyreg.__newobj_ex__': Builder(_new_object_with_names),
    **{f'datetime.{name}': builder for name, builder in _TIMES.items()},
    **_PATHS,
    'addict.addict.Dict': _MAPPING,
    'mmengine.config.config.ConfigDict': _MAPPING,
    'mmengine.logging.history_buffer.HistoryBuffer': HISTORY,
    'numpy.dtype': Builder(make_dtype),
    'numpy.ndarray': stand_in_class('numpy', 'ndarray'),
    **{f'numpy.{core}.multiarray._reconstruct': Builder(empty_array) for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': Builder(make_scalar) for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': Builder(array_from_buffer) for core in ('core', '_core')},
    'torch.Size': Builder(make_size),
    'torch.device': Builder(make_device),
    'torch._utils._rebuild_tensor': Builder(make_tensor),
    'torch._utils._rebuild_tensor_v2': Builder(make_tensor),
    'torch._utils._rebuild_parameter': Builder(make_parameter),
    'torch._utils._rebuild_parameter_with_state': Builder(make_parameter),
    'torch._tensor._rebuild_from_type_v2': Builder(_tensor_of_type),
    # asked for by identity in torch's reading of storages, never called
    'torch.UntypedStorage': torch.UntypedStorage,
    'torch.storage.UntypedStorage': torch.UntypedStorage,
}


def resolve(module: str, name: str) -> Any:
    """What a name in a pickle stands for: a :class:`Builder`, a dtype, or a class of stand-ins.

    Raises:
        RefusedError: it is neither data nor a class of another package.
    """
    module, name = _today(module, name)
    full = f'{module}.{name}'
    if full in ALLOWED:
        return ALLOWED[full]
    dtype = find_dtype(module, name)
    if dtype is not None:
        return dtype
    if not all(part.isidentifier() for part in full.split('.')):
        raise RefusedError(f'{full!r}, which is no name')
    package = module.partition('.')[0]
    known = package in sys.stdlib_module_names or package in (*CODE_PACKAGES, *DATA_PACKAGES)
    if known and not full.startswith(STAND_IN_PREFIXES):
        raise RefusedError(f'{full}, which is not data')
    return stand_in_class(module, name)


def _today(module: str, name: str) -> tuple[str, str]:
    """Names of Python 2, in which protocols 0 to 2 are written, as Python 3 has them."""
    if (module, name) in _compat_pickle.NAME_MAPPING:
        return _compat_pickle.NAME_MAPPING[module, name]
    return _compat_pickle.IMPORT_MAPPING.get(module, module), name
