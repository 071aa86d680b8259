"""Whatever touches the parameters of a model: done before the model is wrapped for several processes.

DistributedDataParallel lays out the buckets of gradients by the strides that the parameters have when it is built, and
reduces those that require a gradient then. Parameters that change afterwards get scrambled gradients or none, without
an error.
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
USUAL_PARTS = ('backbone', 'neck')
COMPILERS = ('g++', 'clang++', 'c++')


def prepare_model(model: nn.Module, cfg: Mapping[str, Any]) -> nn.Module:
    """Freeze, lay out and compile a model as the config says.

    Args:
        model: Not wrapped yet.
        cfg: Of the run. ``memory_format`` is ``'channels_last'`` or ``'contiguous'``; without it the parameters stay
            as they are. ``compile_parts`` is that of :func:`compile_parts`, or None.

    Returns:
        The same model, in training mode.

    Raises:
        ValueError: Unknown ``memory_format``, or ``compile_parts`` that cannot be.
    """
    model.train()  # backbones of mmdet freeze their stages here, some of them nowhere else
    memory_format = cfg.get('memory_format')
    if memory_format is not None:
        if memory_format not in MEMORY_FORMATS:
            raise ValueError(f'memory_format must be one of {tuple(MEMORY_FORMATS)} or None, got {memory_format!r}')
        model = model.to(memory_format=MEMORY_FORMATS[memory_format])
    compiled = cfg.get('compile_parts')
    if compiled is not None:
        if not isinstance(compiled, Mapping):
            raise ValueError(
                f"compile_parts must be a dict such as dict(backend='inductor'), or None, got {compiled!r}"
            )
        compile_parts(model, **compiled)
    return model


def compile_parts(model: nn.Module, backend: str = 'inductor', parts: list[str] | None = None, **options) -> list[str]:
    """Let ``torch.compile`` translate parts of a model, in place, when they first run.

    Head and losses run as they are: what depends on the boxes of a batch would be compiled anew for every batch. The
    names of the weights stay, so checkpoints fit with and without. MMEngine's key ``compile`` compiles the whole
    training step instead, optimizer included; use one of the two.

    Args:
        model: Has these parts.
        backend: Of ``torch.compile``.
        parts: Names of modules; backbone and neck, those that the model has, if not given.
        **options: Other arguments of ``torch.compile``, such as ``mode`` or ``dynamic``.

    Returns:
        The names of the parts.

    Raises:
        ValueError: An unknown backend, or a part that the model does not have.
    """
    known = sorted({*torch.compiler.list_backends(()), 'inductor'})
    if backend not in known:
        raise ValueError(f'backend of compile_parts must be one of {known}, got {backend!r}')
    modules = dict(model.named_modules())
    names = [part for part in USUAL_PARTS if part in modules] if parts is None else list(parts)
    missing = [name for name in names if name not in modules]
    if missing or not names:
        raise ValueError(
            f'{type(model).__name__} has no part {missing or USUAL_PARTS} to compile: set compile_parts.parts to some '
            f'of {[name for name in modules if name and "." not in name]}'
        )
    for name in names:
        modules[name].compile(backend=backend, **options)
    return names


def check_compiler(device_type: str) -> None:
    """Check what the backend ``inductor`` needs on a device.

    Raises:
        ValueError: A package, a compiler or a header is missing, with the cure.
    """
    without = 'or train without compiling'
    if device_type == 'cuda' and importlib.util.find_spec('triton') is None:
        raise ValueError(f'torch.compile needs the package triton on a GPU: pip install triton, {without}')
    if sys.platform == 'win32':
        return  # its compilers are found in places of their own
    own = os.environ.get('CXX')
    if not any(shutil.which(name) for name in ([own] if own else COMPILERS)):
        looked = f'CXX={own}' if own else ', '.join(COMPILERS)
        raise ValueError(f'torch.compile needs a C++ compiler, and there is none ({looked}): install g++, {without}')
    headers = sysconfig.get_path('include')
    if not Path(headers, 'Python.h').is_file():
        raise ValueError(
            f'torch.compile needs the headers of Python, and {headers} has no Python.h: install them (apt install '
            f'python3-dev), {without}'
        )


def forbid_changes(model: nn.Module) -> None:
    """Raise an error at the first forward pass after a parameter of a wrapped model changed its form.

    Values may change. Layout, ``requires_grad`` and the identity of a parameter may not, see the module. Models in
    other wrappers than DistributedDataParallel, or in none, are left alone.

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
            if parameter.stride() != stride:
                raise RuntimeError(_changed(name, 'layout in memory', stride, parameter.stride()))
            if parameter.requires_grad != required:
                raise RuntimeError(_changed(name, 'requires_grad', required, parameter.requires_grad))
        if first:
            first = False
            found = dict(model.module.named_parameters())
            for name, parameter, *_ in wrapped:
                if found.pop(name, None) is not parameter:
                    raise RuntimeError(_changed(name, 'identity', 'one tensor', 'another or none'))
            if found:
                raise RuntimeError(_changed(next(iter(found)), 'existence', 'absent', 'present'))

    model.register_forward_pre_hook(check)


def _changed(name: str, what: str, before: Any, after: Any) -> str:
    return (
        f'The {what} of the parameter {name} changed from {before} to {after} after the model was wrapped in '
        'DistributedDataParallel, which would reduce a wrong gradient or none. Do in the constructor of the model, or '
        'by the keys memory_format and frozen_parts, what a hook does here'
    )
