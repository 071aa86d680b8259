"""Weights out of a pickled model object, without executing what the pickle names.

A ``.pt`` file of PyTorch is a zip: ``data.pkl`` and, under ``data/``, the raw storages. The unpickler below knows how
to rebuild tensors and plain containers; every other class becomes a stand-in that keeps its state.
"""

import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

DTYPES = {'FloatStorage': torch.float32, 'HalfStorage': torch.float16, 'LongStorage': torch.int64}


class StandIn:
    """An object of a class that is not here: its attributes, and nothing else."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _rebuild_tensor(storage: Tensor, offset: int, size: tuple, stride: tuple, *_: Any) -> Tensor:
    return storage.as_strided(size, stride, offset).clone()


def _rebuild_parameter(data: Tensor, *_: Any) -> Tensor:
    return data


ALLOWED = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('__builtin__', 'set'): set,
    ('torch._utils', '_rebuild_tensor_v2'): _rebuild_tensor,
    ('torch._utils', '_rebuild_parameter'): _rebuild_parameter,
}


class _Reader(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, root: str) -> None:
        super().__init__(archive.open(f'{root}/data.pkl'))
        self.archive = archive
        self.root = root

    def find_class(self, module: str, name: str) -> Any:
        if module == 'torch' and name in DTYPES:
            return DTYPES[name]
        return ALLOWED.get((module, name), StandIn)

    def persistent_load(self, pid: tuple) -> Tensor:
        kind, dtype, key, _, _ = pid
        assert kind == 'storage'
        content = bytearray(self.archive.read(f'{self.root}/data/{key}'))
        return torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Weights and buffers, float32, of the model object that the file holds under the key ``model``."""
    with zipfile.ZipFile(path) as archive:
        root = next(name for name in archive.namelist() if name.endswith('/data.pkl')).rsplit('/', 1)[0]
        content = _Reader(archive, root).load()
    return dict(_tensors_of(content['model'], ''))


def _tensors_of(module: StandIn, prefix: str):
    for tensors in (module._parameters, module._buffers):
        for name, tensor in tensors.items():
            if tensor is not None:
                yield prefix + name, tensor.float() if tensor.is_floating_point() else tensor
    for name, child in module._modules.items():
        yield from _tensors_of(child, f'{prefix}{name}.')
