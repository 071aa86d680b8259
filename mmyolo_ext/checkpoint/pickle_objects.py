"""Objects that a checkpoint may name, and what each name stands for.

A pickle builds objects by naming functions and classes of Python modules. :func:`resolve` distinguishes three kinds,
and neither imports nor looks up a name that a file gives:

* data (:data:`ALLOWED`): a :class:`Builder` of this module, which checks its arguments;
* classes of other packages: a :class:`StandIn`, which keeps the attributes that the file holds and does nothing;
* everything else of Python's standard library, torch and NumPy, and packages that pickle code: refused. A stand-in
  would be as harmless, but a file that names ``os.system`` was made to be run.
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

CODE_PACKAGES = ('cloudpickle', 'dill', 'IPython', 'joblib', 'pip', 'pkg_resources', 'setuptools')
DATA_PACKAGES = ('numpy', 'torch')
# names of refused packages that get a stand-in
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
# booleans, integers, floats, complex numbers, texts and dates; no Python objects, no fields
PLAIN_DTYPE = re.compile(r'[?bBhHiIlLqQefdgFDG]|[<>=|]?[biufcSUMm]\d+')
# an expanded tensor has more elements than its storage; a harmless one is not that large
MOST_EXPANDED = 2**24


class RefusedError(ValueError):
    """Raised where a checkpoint asks for something that is not data."""


class StandIn:
    """An object of a class that is not imported.

    Its type has the module and the name of the class, and nothing else of it.

    Attributes:
        args: Arguments with which the object would have been made; ``kwargs`` likewise.
        items: Items that would have been appended to it or, as pairs, set in it.
        state: Its attributes by name, or any other state that the file holds; None if there is none.
    """

    __slots__ = ('args', 'items', 'kwargs', 'state')

    def __init__(self, args: tuple = (), kwargs: dict | None = None) -> None:
        self.args = args
        self.kwargs = kwargs or {}
        self.items: list = []
        self.state: Any = None

    def get(self, name: str, default: Any = None) -> Any:
        """Return an attribute of the object."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


@lru_cache(maxsize=4096)
def stand_in_class(module: str, name: str) -> type[StandIn]:
    """Return the type of the stand-ins for a class."""
    return type(name, (StandIn,), {'__module__': module, '__slots__': ()})


@dataclass(frozen=True, eq=False, slots=True)
class Builder:
    """Replaces a class or function that makes data."""

    build: Callable[..., Any]


def build(maker: Any, args: Any, kwargs: Any = None) -> Any:
    """Call a builder, or make a stand-in.

    Raises:
        RefusedError: If ``maker`` is neither, or the builder does not accept the arguments.
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


def set_state(target: Any, state: Any) -> None:
    """Set the state of an object after it was built, in place.

    Raises:
        RefusedError: If the object has no state. A file cannot change functions, classes and tensors.
    """
    if isinstance(target, StandIn):
        # attributes, followed by those of __slots__
        parts = state if isinstance(state, tuple) and len(state) == 2 else (state,)
        if all(part is None or isinstance(part, dict) for part in parts):
            before = target.state if isinstance(target.state, dict) else {}
            state = {key: value for part in (before, *parts) if part for key, value in part.items()}
        target.state = state
    elif type(target) is np.ndarray:
        _, shape, dtype, fortran, content = state
        _check_array(shape, dtype, content)
        target.__setstate__((1, shape, dtype, bool(fortran), bytes(content)))
    elif isinstance(target, np.dtype):
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else None
        if order not in ('|', '=', '<' if np.little_endian else '>'):
            raise RefusedError(f'an array of byte order {order!r}')
    elif type(target) is HistoryBuffer and isinstance(state, dict):
        # its own __setstate__ would use functions from the file
        logs, counts = (np.asarray(state.get(key, ())) for key in ('_log_history', '_count_history'))
        target.__init__(logs, counts, int(state.get('max_length', 1000000)))
    elif type(target) is OrderedDict and isinstance(state, dict):
        metadata = state.get('_metadata')
        if isinstance(metadata, dict) and all(isinstance(value, dict) for value in metadata.values()):
            target._metadata = metadata  # the versions of layers, which load_state_dict needs
    else:
        raise RefusedError(f'a state for {type(target).__name__}')


def resolve(module: str, name: str) -> Any:
    """Return what a name in a pickle stands for: a :class:`Builder`, a dtype, or a class of stand-ins.

    Raises:
        RefusedError: If it is neither data nor a class of another package.
    """
    # names of Python 2, in which protocols 0 to 2 are written
    if (module, name) in _compat_pickle.NAME_MAPPING:
        module, name = _compat_pickle.NAME_MAPPING[module, name]
    module = _compat_pickle.IMPORT_MAPPING.get(module, module)
    full = f'{module}.{name}'
    if full in ALLOWED:
        return ALLOWED[full]
    if module == 'torch' and isinstance(vars(torch).get(name), torch.dtype):
        return vars(torch)[name]
    if not all(part.isidentifier() for part in full.split('.')):
        raise RefusedError(f'{full!r}, which is no name')
    package = module.partition('.')[0]
    known = package in sys.stdlib_module_names or package in (*CODE_PACKAGES, *DATA_PACKAGES)
    if known and not full.startswith(STAND_IN_PREFIXES):
        raise RefusedError(f'{full}, which is not data')
    return stand_in_class(module, name)


# Python's types


def _plain(kind: type) -> Builder:
    """Return a builder of a type from plain values."""

    def build(*values: Any) -> Any:
        if not all(isinstance(value, PLAIN) for value in values):
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


def _attribute(owner: Any, name: Any) -> StandIn:
    """MMEngine pickles the functions that sum up a log as attributes of HistoryBuffer."""
    if owner is not HISTORY or not isinstance(name, str):
        raise RefusedError(f'getattr(..., {name!r}), which reaches for code')
    return StandIn((name,))


# NumPy's arrays, from plain numbers and text


def _dtype(code: Any, *flags: Any) -> np.dtype:
    if not isinstance(code, str) or not PLAIN_DTYPE.fullmatch(code):
        raise RefusedError(f'an array of dtype {code!r}, which is not plain numbers or text')
    return np.dtype(code)


def _array_from_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> np.ndarray:
    """Protocol 5."""
    _check_array(shape, dtype, content)
    return np.frombuffer(bytes(content), dtype).reshape(shape, order='F' if order == 'F' else 'C').copy('K')


def _scalar(dtype: Any, content: Any = b'') -> np.generic:
    _check_array((), dtype, content)
    return np.frombuffer(bytes(content), dtype)[0]


def _check_array(shape: Any, dtype: Any, content: Any) -> None:
    if not isinstance(dtype, np.dtype) or dtype.hasobject or not isinstance(content, (bytes, bytearray)):
        raise RefusedError('an array of objects')
    if not isinstance(shape, tuple) or not _are_counts(shape):
        raise RefusedError(f'an array of shape {shape!r}')
    if math.prod(shape) * dtype.itemsize != len(content):
        raise ValueError(f'an array of shape {shape} and {dtype} with {len(content)} bytes')


# torch's tensors, from storages; hooks and attributes that the file attaches to them are dropped


def _tensor(
    storage: Any, offset: Any, size: Any, stride: Any, requires_grad: Any = False, hooks: Any = None, bits: Any = None
) -> Tensor:
    is_storage = isinstance(storage, torch.storage.TypedStorage)
    if not is_storage or bits or not all(_are_counts(part) for part in (size, stride, (offset,))):
        raise RefusedError('a tensor that is not a view of a storage')
    held = storage._untyped_storage.nbytes() // storage.dtype.itemsize
    count = math.prod(size)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    # torch itself would enlarge the storage, exposing whatever the memory holds
    if count and last >= held or count > max(held, MOST_EXPANDED):
        raise RefusedError(f'a tensor of {tuple(size)} elements from a storage of {held}')
    return torch._utils._rebuild_tensor_v2(storage, offset, size, stride, requires_grad is True, OrderedDict())


def _parameter(data: Any, requires_grad: Any = True, hooks: Any = None, state: Any = None) -> nn.Parameter:
    return nn.Parameter(data, requires_grad is True)


def _device(kind: Any, index: Any = None) -> torch.device:
    return torch.device(kind) if index is None else torch.device(kind, index)


def _are_counts(values: Any) -> bool:
    return isinstance(values, (tuple, list)) and all(type(value) is int and value >= 0 for value in values)


HISTORY = Builder(lambda: HistoryBuffer())  # its arguments come in its state
PLAIN = (list, tuple, set, frozenset, dict, int, float, str, type(None))
TYPES = (set, frozenset, list, tuple, dict, int, float, bool, complex, str, slice)

ALLOWED: dict[str, Any] = {
    **{f'builtins.{kind.__name__}': _plain(kind) for kind in TYPES},
    'builtins.bytes': Builder(_bytes),
    'builtins.bytearray': Builder(lambda *args: bytearray(_bytes(*args))),
    'builtins.object': stand_in_class('builtins', 'object'),
    'builtins.getattr': Builder(_attribute),
    '_codecs.encode': Builder(_bytes),
    'collections.OrderedDict': _plain(OrderedDict),
    'collections.defaultdict': Builder(lambda factory=None: {}),
    'collections.Counter': _plain(dict),
    'collections.deque': Builder(lambda values=(), limit=None: list(values)),
    'copyreg._reconstructor': Builder(lambda kind, base, state=None: build(kind, ())),
    'copyreg.__newobj__': Builder(lambda kind, *args: build(kind, args)),
    'copyreg.__newobj_ex__': Builder(lambda kind, args, kwargs: build(kind, args, kwargs)),
    **{f'datetime.{kind.__name__}': Builder(kind) for kind in (date, datetime, time, timedelta, timezone)},
    **{
        f'{module}.{name}': _plain(kind)
        for module in ('pathlib', 'pathlib._local')
        for kind in (PurePosixPath, PureWindowsPath)
        for name in (kind.__name__, kind.__name__.removeprefix('Pure'))
    },
    'addict.addict.Dict': _plain(dict),
    'mmengine.config.config.ConfigDict': _plain(dict),
    'mmengine.logging.history_buffer.HistoryBuffer': HISTORY,
    'numpy.dtype': Builder(_dtype),
    'numpy.ndarray': stand_in_class('numpy', 'ndarray'),
    **{
        f'numpy.{core}.{name}': builder
        for core in ('core', '_core')
        for name, builder in (
            ('multiarray._reconstruct', Builder(lambda *_: np.empty(0, np.int8))),
            ('multiarray.scalar', Builder(_scalar)),
            ('numeric._frombuffer', Builder(_array_from_buffer)),
        )
    },
    'torch.Size': Builder(torch.Size),
    'torch.device': Builder(_device),
    'torch._utils._rebuild_tensor': Builder(_tensor),
    'torch._utils._rebuild_tensor_v2': Builder(_tensor),
    'torch._utils._rebuild_parameter': Builder(_parameter),
    'torch._utils._rebuild_parameter_with_state': Builder(_parameter),
    'torch._tensor._rebuild_from_type_v2': Builder(lambda function, kind, args, state: build(function, args)),
    # compared by identity when torch reads storages, never called
    'torch.UntypedStorage': torch.UntypedStorage,
    'torch.storage.UntypedStorage': torch.UntypedStorage,
}
