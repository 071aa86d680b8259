"""Everything that changes the parameters of a model, applied before it is wrapped for several processes.

DistributedDataParallel lays out gradient buckets by the strides and ``requires_grad`` that parameters have at its
construction. If they change afterwards, gradients are scrambled or missing, without an error.
"""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

MEMORY_FORMATS = {'channels_last': torch.channels_last, 'contiguous': torch.contiguous_format}
COMPILERS = ('g++', 'clang++', 'c++')
USUAL_PARTS = ('backbone', 'neck')
CHANGED = (
    'The {} changed from {} to {} after the model was wrapped in DistributedDataParallel, which would reduce a wrong '
    'gradient or none. Change it in the constructor of the model, or by memory_format and frozen_parts, not in a hook'
)


def prepare_model(model: nn.Module, cfg: Mapping[str, Any]) -> nn.Module:
    """Freeze, lay out and compile a model as the config specifies.

    Args:
        model: Not wrapped.
        cfg: Config of the run. ``memory_format`` is ``'channels_last'``, ``'contiguous'`` or None, which keeps the
            parameters as they are. ``compile_parts`` has the arguments of :func:`compile_parts`, or is None.

    Returns:
        The same model, in training mode.

    Raises:
        ValueError: If ``memory_format`` or ``compile_parts`` is invalid.
    """
    model.train()  # some backbones of mmdet freeze their stages only here
    memory_format, compiled = cfg.get('memory_format'), cfg.get('compile_parts')
    if memory_format is not None:
        if memory_format not in MEMORY_FORMATS:
            raise ValueError(f'memory_format must be one of {tuple(MEMORY_FORMATS)} or None, got {memory_format!r}')
        model = model.to(memory_format=MEMORY_FORMATS[memory_format])
    if compiled is not None:
        if not isinstance(compiled, Mapping):
            raise ValueError(f"compile_parts must be a dict as dict(backend='inductor'), or None, got {compiled!r}")
        compile_parts(model, **compiled)
    return model


def compile_parts(model: nn.Module, backend: str = 'inductor', parts: list[str] | None = None, **options) -> None:
    """Compile parts of a model with ``torch.compile``, in place, when they first run.

    Heads and losses are not compiled: what depends on the boxes of a batch would be recompiled for every batch. Names
    of weights do not change, so checkpoints are compatible. MMEngine's key ``compile`` compiles the whole training
    step instead, including the optimizer; use one of the two.

    Args:
        model: With these parts.
        backend: Backend of ``torch.compile``.
        parts: Names of modules; by default backbone and neck, as far as the model has them.
        **options: Other arguments of ``torch.compile``, such as ``mode`` or ``dynamic``.

    Raises:
        ValueError: If the backend is unknown or the model lacks a part.
    """
    known = sorted({*torch.compiler.list_backends(()), 'inductor'})
    if backend not in known:
        raise ValueError(f'backend of compile_parts must be one of {known}, got {backend!r}')
    modules = dict(model.named_modules())
    names = [part for part in USUAL_PARTS if part in modules] if parts is None else parts
    missing = [name for name in names if name not in modules]
    if missing or not names:
        own = [name for name, _ in model.named_children()]
        raise ValueError(f'{type(model).__name__} has no part {missing or USUAL_PARTS} to compile: set parts to {own}')
    for name in names:
        modules[name].compile(backend=backend, **options)


def check_compiler(device_type: str) -> None:
    """Check that a device has what the backend ``inductor`` needs.

    Raises:
        ValueError: If a package, a compiler or a header is missing.
    """
    compilers = [os.environ['CXX']] if 'CXX' in os.environ else COMPILERS
    needs = {
        'the package triton': device_type != 'cuda' or importlib.util.find_spec('triton'),
        f'a C++ compiler ({", ".join(compilers)})': sys.platform == 'win32' or any(map(shutil.which, compilers)),
        'Python.h (apt install python3-dev)': Path(sysconfig.get_path('include'), 'Python.h').is_file(),
    }
    missing = [name for name, there in needs.items() if not there]
    if missing:
        raise ValueError(f'torch.compile needs {" and ".join(missing)}: install what is missing, or omit --compile')


def forbid_changes(model: nn.Module) -> None:
    """Make the forward pass of a DistributedDataParallel model fail if a parameter has changed since it was wrapped.

    Values may change; layout, ``requires_grad`` and the identity of parameters may not. Other models are left alone.

    Args:
        model: As the runner has it.
    """
    if not isinstance(model, DistributedDataParallel):
        return
    wrapped = [(name, param, param.stride(), param.requires_grad) for name, param in model.module.named_parameters()]
    first = True

    def check(model: nn.Module, args: tuple) -> None:
        nonlocal first
        if torch.compiler.is_compiling():
            return
        for name, parameter, stride, required in wrapped:
            if parameter.stride() != stride or parameter.requires_grad != required:
                before, now = (stride, required), (parameter.stride(), parameter.requires_grad)
                raise RuntimeError(CHANGED.format(f'(stride, requires_grad) of the parameter {name}', before, now))
        if first:
            first = False
            before = {(name, id(parameter)) for name, parameter, *_ in wrapped}
            now = {(name, id(parameter)) for name, parameter in model.module.named_parameters()}
            if before != now:
                names = sorted(name for name, _ in before ^ now)
                raise RuntimeError(CHANGED.format(f'tensor of the parameter {names[0]}', 'one', 'another or none'))

    model.register_forward_pre_hook(check)
