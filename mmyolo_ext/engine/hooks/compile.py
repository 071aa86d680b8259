"""Let torch.compile translate the network."""

import importlib.util
import os
import shutil
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.runner import Runner
from torch import nn

from mmyolo_ext.registry import HOOKS

USUAL_PARTS = ('backbone', 'neck')
COMPILERS = ('g++', 'clang++', 'c++')


@HOOKS.register_module()
class CompileHook(Hook):
    """Compiles the backbone and the neck for training; head, losses and validation run as they are.

    What depends on the boxes of a batch (assigner, losses) would be translated anew for every batch, and validation
    has pictures of many sizes. The modules are compiled in place: names of weights in checkpoints, the average of the
    weights and resuming are as without it. MMEngine's own key ``compile`` translates the whole training step, loss and
    optimizer included; use one of the two.

    Args:
        backend: Of ``torch.compile``.
        parts: Names of the modules to compile; those of backbone and neck that the model has, if not given.
        **options: Other arguments of ``torch.compile``, such as ``mode`` or ``dynamic``.

    Raises:
        ValueError: An unknown backend, a compiler that it needs is missing, or a part that the model does not have.
    """

    def __init__(self, backend: str = 'inductor', parts: Sequence[str] | None = None, **options) -> None:
        known = sorted({*torch.compiler.list_backends(()), 'inductor'})
        if backend not in known:
            raise ValueError(f'backend of torch.compile must be one of {known}, got {backend!r}')
        self.backend = backend
        self.parts = parts
        self.options = options

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if self.backend == 'inductor':
            check_compiler(next(model.parameters()).device.type)
        names = self.compile(model)
        runner.logger.info(f'torch.compile ({self.backend}) translates {names}: the first steps take long.')

    def before_val(self, runner: Runner) -> None:
        _set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        _set_stance('default')

    def compile(self, model: nn.Module) -> list[str]:
        """Compile the parts of ``model``; their names are returned."""
        names = dict(model.named_modules())
        parts = [part for part in USUAL_PARTS if part in names] if self.parts is None else list(self.parts)
        missing = [part for part in parts if part not in names]
        if missing or not parts:
            raise ValueError(
                f'{type(model).__name__} has no part {missing or USUAL_PARTS} to compile: set parts of CompileHook to '
                f'some of {[name for name in names if name and "." not in name]}'
            )
        for part in parts:
            names[part].compile(backend=self.backend, **self.options)
        return parts


def check_compiler(device_type: str) -> None:
    """Stop before the first step if what the backend ``inductor`` calls is missing.

    Raises:
        ValueError: it is, with the cure.
    """
    without = 'or train without --compile'
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


def _set_stance(stance: str) -> None:
    if hasattr(torch.compiler, 'set_stance'):  # since PyTorch 2.6; before, validation is compiled too
        torch.compiler.set_stance(stance)
