"""Read PyTorch checkpoints without executing what is in them.

A checkpoint is a pickle, and a pickle may call any function. PyTorch's ``weights_only`` reading calls none, but it
refuses files that hold anything besides weights, as those of MMEngine do (their log and config). Those are read here
with stand-ins for all that is not a tensor or a plain container.
"""

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import Any, BinaryIO

import torch


class StandIn:
    """An object of a class that is not loaded: takes what the pickle does with it, and keeps nothing."""

    def __new__(cls, *args: Any, **kwargs: Any) -> 'StandIn':
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __call__(self, *args: Any, **kwargs: Any) -> 'StandIn':
        return self

    def _ignore(self, *args: Any) -> None:
        pass

    __setstate__ = __setitem__ = append = extend = add = _ignore


ALLOWED = {
    ('collections', 'OrderedDict'): OrderedDict,
    ('torch', 'Size'): torch.Size,
    ('torch._utils', '_rebuild_tensor'): torch._utils._rebuild_tensor,
    ('torch._utils', '_rebuild_tensor_v2'): torch._utils._rebuild_tensor_v2,
    ('torch._utils', '_rebuild_parameter'): torch._utils._rebuild_parameter,
}


class InertPickle:
    """Stands for the module ``pickle`` in ``torch.load``, which finds the storages of tensors by itself."""

    class Unpickler(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return ALLOWED.get((module, name)) or type(name, (StandIn,), {'__module__': module})

    @staticmethod
    def load(file: BinaryIO, **kwargs: Any) -> Any:
        return InertPickle.Unpickler(file, **kwargs).load()


def read_checkpoint(path: str | Path, map_location: Any = 'cpu') -> Any:
    """What a file of ``torch.save`` holds; objects that are no tensors or plain containers come as :class:`StandIn`.

    Args:
        path: ``~`` is the home folder.
        map_location: as in ``torch.load``.

    Raises:
        ValueError: no such file, or one that cannot be read: empty, cut short, of another format.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise ValueError(f'there is no checkpoint {path}' + (': it is a folder' if path.is_dir() else ''))
    if path.stat().st_size == 0:
        raise ValueError(f'the checkpoint {path} is empty (0 bytes): copy or download it again')
    try:
        return _read(path, map_location)
    # a broken pickle may raise anything
    except Exception as error:
        reason = str(error).strip().split('\n')[0] or type(error).__name__
        raise ValueError(
            f'the checkpoint {path} cannot be read as a file of torch.save ({reason}): it may be cut short or not a '
            'checkpoint; copy or download it again'
        ) from error


def _read(path: Path, map_location: Any) -> Any:
    try:
        return torch.load(path, map_location, weights_only=True)
    except pickle.UnpicklingError:
        return torch.load(path, map_location, pickle_module=InertPickle, weights_only=False)
