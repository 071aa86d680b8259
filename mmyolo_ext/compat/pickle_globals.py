"""What the names in a checkpoint mean to us: data that is built, classes that are replaced, and the rest, refused.

A pickle builds objects by naming functions and classes of Python modules. Three kinds are told apart here, and nothing
is ever imported or looked up by a name that a file gives:

* data (:data:`ALLOWED`): a builder of our own, which checks what it is given;
* classes of other packages: a stand-in, which keeps what the file says and does nothing;
* everything of Python's own library, of torch and of NumPy that is not data, and packages that pickle code: refused.
  A stand-in would be as harmless, but a file that names ``os.system`` was made to be run.
"""

import _compat_pickle
import sys
from collections import OrderedDict
from datetime import date, datetime, time, timedelta, timezone
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any

import torch
from mmengine.logging import HistoryBuffer

from mmyolo_ext.compat import pickle_numpy, pickle_torch
from mmyolo_ext.compat.inert import RefusedError, StandIn, stand_in_class
from mmyolo_ext.compat.pickle_builder import Builder, build

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
    'numpy.dtype': Builder(pickle_numpy.make_dtype),
    'numpy.ndarray': stand_in_class('numpy', 'ndarray'),
    **{f'numpy.{core}.multiarray._reconstruct': Builder(pickle_numpy.empty_array) for core in ('core', '_core')},
    **{f'numpy.{core}.multiarray.scalar': Builder(pickle_numpy.make_scalar) for core in ('core', '_core')},
    **{f'numpy.{core}.numeric._frombuffer': Builder(pickle_numpy.array_from_buffer) for core in ('core', '_core')},
    'torch.Size': Builder(pickle_torch.make_size),
    'torch.device': Builder(pickle_torch.make_device),
    'torch._utils._rebuild_tensor': Builder(pickle_torch.make_tensor),
    'torch._utils._rebuild_tensor_v2': Builder(pickle_torch.make_tensor),
    'torch._utils._rebuild_parameter': Builder(pickle_torch.make_parameter),
    'torch._utils._rebuild_parameter_with_state': Builder(pickle_torch.make_parameter),
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
    dtype = pickle_torch.find_dtype(module, name)
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
