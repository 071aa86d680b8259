"""NumPy's arrays, scalars and dtypes of a pickle, rebuilt from plain numbers and text only."""

import math
import re
from typing import Any

import numpy as np

from mmyolo_ext.compat.inert import RefusedError

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
