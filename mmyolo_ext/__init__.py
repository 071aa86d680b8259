"""YOLO for MMDetection: importing this package registers its parts.

The parts are registered as soon as MMEngine is imported, now if it is already, and the registries of
:mod:`mmyolo_ext.registry` import the modules that hold them when the first is asked for. So ``import mmyolo_ext``
itself takes some milliseconds.
"""

import importlib
import os
import sys
import warnings
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

from mmyolo_ext import ops
from mmyolo_ext.version import __version__

LAZY = {'Detector': 'inference', 'train': 'training'}  # modules of mmyolo_ext.apis

__all__ = ['Detector', '__version__', 'train']

# a small file can hold an image that fills the memory; OpenCV reads the limit when it is imported
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))


def __getattr__(name: str) -> object:
    """Import ``Detector`` and ``train`` when they are asked for."""
    if name in LAZY:
        return getattr(importlib.import_module(f'{__name__}.apis.{LAZY[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def _register() -> None:
    try:
        importlib.import_module(f'{__name__}.registry')
        importlib.import_module(f'{__name__}.checkpoint.config_text')  # a YAML loader of plain data
    except (ImportError, OSError) as error:  # OSError: a system library is missing; the doctor must start all the same
        warnings.warn(
            f'mmyolo_ext cannot register its parts: {error}. `python -m mmyolo_ext.cli.doctor` names the cure.',
            stacklevel=2,
        )


class _AfterMMEngine(MetaPathFinder):
    """Registers the parts of this package at the end of the import of MMEngine."""

    def find_spec(self, name: str, path: object = None, target: ModuleType | None = None) -> ModuleSpec | None:
        if name != 'mmengine':
            return None
        specs = (finder.find_spec(name, path, target) for finder in sys.meta_path if finder is not self)
        spec = next((spec for spec in specs if spec), None)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_register(module: ModuleType) -> None:
                execute(module)
                if self in sys.meta_path:
                    sys.meta_path.remove(self)
                _register()

            spec.loader.exec_module = execute_and_register
        return spec


ops.install()
if 'mmengine' in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _AfterMMEngine())
