"""A stand-in for ``mmcv._ext``, the compiled half of mmcv, for installations that lack it.

``mmcv.ops`` asks ``mmcv._ext`` for every op it knows at import time and calls them later. The stand-in answers for
all of them: an op of :data:`OPS` is imported from its file when first asked for, any other raises
:class:`MissingOpError` when it is called.
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

OPS_BY_MODULE = {
    'carafe': ['carafe_forward', 'carafe_backward'],
    'deformable': [
        'deform_conv_forward',
        'deform_conv_backward_input',
        'deform_conv_backward_parameters',
        'modulated_deform_conv_forward',
        'modulated_deform_conv_backward',
        'ms_deform_attn_forward',
        'ms_deform_attn_backward',
    ],
    'focal_loss': ['sigmoid_focal_loss_forward', 'sigmoid_focal_loss_backward'],
    'masked_conv': ['masked_im2col_forward', 'masked_col2im_forward'],
    'nms': ['nms', 'nms_match', 'softnms'],
    'roi': ['roi_align_forward', 'roi_align_backward', 'deform_roi_pool_forward', 'deform_roi_pool_backward'],
}
"""The ops we supply, by the module of this package that holds them."""

OPS = {op: module for module, ops in OPS_BY_MODULE.items() for op in ops}


class MissingOpError(NotImplementedError):
    """An op of mmcv that is neither compiled nor supplied by us was called."""


class SuppliedOps(ModuleType):
    """Answers for ``mmcv._ext`` with the ops of :data:`OPS`."""

    def __getattr__(self, name: str) -> Callable:
        if name.startswith('__'):
            raise AttributeError(name)
        op = _load(name) if name in OPS else _missing(name)
        setattr(self, name, op)
        return op


def install() -> None:
    """Supply ``mmcv._ext`` where mmcv is installed without it; otherwise do nothing."""
    if EXT not in sys.modules and ops_status() == 'absent':
        module = SuppliedOps(EXT, doc=__doc__)
        module.__spec__ = ModuleSpec(EXT, loader=None, origin=__name__)
        sys.modules[EXT] = module


def ops_status() -> str:
    """Where mmcv's ops come from, found without importing mmcv.

    Returns:
        'no mmcv', 'supplied' (the stand-in is in place), 'compiled', or 'absent' (mmcv alone, without ops).
    """
    mmcv = importlib.util.find_spec('mmcv')
    if mmcv is None:
        return 'no mmcv'
    if isinstance(sys.modules.get(EXT), SuppliedOps):
        return 'supplied'
    return 'absent' if PathFinder.find_spec(EXT, mmcv.submodule_search_locations) is None else 'compiled'


def compile_command() -> str:
    """Shell command that puts the compiled ops in place of a pure-Python mmcv of the same version.

    Without build isolation the build finds torch, and then compiles; a cached pure-Python wheel must not be taken.
    """
    try:
        requirement = f'onedl-mmcv=={importlib.metadata.version("onedl-mmcv")}'
    except importlib.metadata.PackageNotFoundError:
        requirement = 'onedl-mmcv'
    options = '--no-build-isolation --no-binary onedl-mmcv --no-cache-dir --no-deps --force-reinstall'
    return f"pip install 'setuptools>=80' wheel ninja && pip install {options} {requirement}"


def _load(name: str) -> Callable:
    module = importlib.import_module(f'{__name__}.{OPS[name]}')
    return getattr(module, name)


def _missing(name: str) -> Callable:
    def missing(*args, **kwargs) -> NoReturn:
        raise MissingOpError(
            f'mmcv was installed without its compiled ops, and mmyolo_ext does not supply the op {name!r}. '
            f'Install the compiled ops (over ten minutes, needs a C++ compiler): {compile_command()}'
        )

    missing.__name__ = missing.__qualname__ = name
    return missing


SUPPLIED = 'not compiled, supplied by mmyolo_ext'


def get_compiler_version() -> str:
    """For mmengine's report of the environment."""
    return SUPPLIED


def get_compiling_cuda_version() -> str:
    """See :func:`get_compiler_version`."""
    return SUPPLIED
