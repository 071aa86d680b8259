"""Pure PyTorch versions of mmcv's compiled ops, for installations of mmcv that lack them.

``mmcv.ops`` looks up every op in ``mmcv._ext`` when it is imported. :func:`install` puts a module in that place that
imports the ops of :data:`MODULES` when they are first used; any other op raises :class:`MissingOpError` when called.

:func:`install` runs when ``mmyolo_ext`` is imported. It imports neither torch nor mmcv, so that the doctor starts on a
broken installation.
"""

import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Callable
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import NoReturn

EXT = 'mmcv._ext'

# modules of this package with the ops that detectors of mmdet use
MODULES = ('deformable', 'nms', 'other_ops', 'roi')


class MissingOpError(NotImplementedError):
    """Raised by an op of mmcv that is neither compiled nor supplied by this package."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f'mmcv was installed without its compiled ops, and mmyolo_ext does not supply the op {name!r}. '
            f'Install the compiled ops (over ten minutes, needs a C++ compiler): {compile_command()}'
        )


class SuppliedOps(ModuleType):
    """The module that replaces ``mmcv._ext``."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        if name in ('get_compiler_version', 'get_compiling_cuda_version'):  # for mmengine's log
            return lambda: 'not compiled, supplied by mmyolo_ext'
        modules = (importlib.import_module(f'{__name__}.{module}') for module in MODULES)
        found = (getattr(module, name) for module in modules if hasattr(module, name))
        return next(found, None) or _missing(name)


def install() -> None:
    """Supply ``mmcv._ext`` if mmcv is installed without it; otherwise do nothing."""
    if EXT not in sys.modules and ops_status() == 'absent':
        module = SuppliedOps(EXT, doc=__doc__)
        module.__spec__ = ModuleSpec(EXT, loader=None, origin=__name__)
        sys.modules[EXT] = module


def ops_status() -> str:
    """Return where mmcv's ops come from, without importing mmcv.

    Returns:
        'no mmcv', 'supplied' (by this package), 'compiled', or 'absent' (mmcv alone, without ops).
    """
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv is None:
        return 'no mmcv'
    if isinstance(sys.modules.get(EXT), SuppliedOps):
        return 'supplied'
    return 'absent' if PathFinder.find_spec(EXT, mmcv.submodule_search_locations) is None else 'compiled'


def compile_command() -> str:
    """Return the shell command that installs the compiled ops for the installed version of mmcv.

    It builds without isolation, because the build compiles only if it finds torch, and ignores cached pure-Python
    wheels.
    """
    try:
        requirement = f'onedl-mmcv=={importlib.metadata.version("onedl-mmcv")}'
    except importlib.metadata.PackageNotFoundError:
        requirement = 'onedl-mmcv'
    options = '--no-build-isolation --no-binary onedl-mmcv --no-cache-dir --no-deps --force-reinstall'
    return f"pip install 'setuptools>=80' wheel ninja && pip install {options} {requirement}"


def _missing(name: str) -> Callable:
    def missing(*args, **kwargs) -> NoReturn:
        raise MissingOpError(name)

    return missing
