"""The child registries of mmyolo_ext, scope ``mmyolo_ext``.

Each is a child of MMEngine's root registry, next to those of mmdet, so that a config of either names parts of the
other by scope (``mmdet.CocoDataset``, ``mmyolo_ext.YOLOv5Head``). The modules in ``locations`` are imported when a
registry is first searched.
"""

import logging
from importlib import import_module
from typing import Any

import mmengine.logging
from mmengine import registry as root
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE
from mmengine.logging.logger import print_log

SCOPE = 'mmyolo_ext'
# MMEngine finds configs by scope: _base_ = 'mmyolo_ext::yolov5/yolov5_n_640_coco.py'
MODULE2PACKAGE.setdefault(SCOPE, SCOPE)
_path_and_scope = Config._get_cfg_path


def _base_path(path: str, filename: str) -> tuple[str, str | None]:
    """Find a base config. Ours name types in full, so they need no ``_scope_``, which collate functions refuse."""
    path, scope = _path_and_scope(path, filename)
    return path, None if scope == SCOPE else scope


Config._get_cfg_path = staticmethod(_base_path)


def _print_log(msg: Any, logger: Any = None, level: int = logging.INFO) -> None:
    """Do as MMEngine's ``print_log``, but without a logger print no messages for debugging.

    When mmdet is imported, those are about packages that it can do without.
    """
    if logger is not None or level >= logging.INFO:
        print_log(msg, logger, level)


mmengine.logging.print_log = _print_log


class ChildRegistry(root.Registry):
    """A registry that finds bare names of mmdet without a default scope too, as parts written in Python need it."""

    def get(self, key: str) -> type | None:
        found = super().get(key)
        if found is None and '.' not in key:
            import_module('mmdet.registry')
            mmdet = self.parent.children.get('mmdet')
            return None if mmdet is None else mmdet.get(key)
        return found


def _child(name: str, parent: root.Registry, *locations: str) -> root.Registry:
    return ChildRegistry(name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{location}' for location in locations])


MODELS = _child('model', root.MODELS, 'models', 'engine')
TASK_UTILS = _child('task util', root.TASK_UTILS, 'models')
DATASETS = _child('dataset', root.DATASETS, 'datasets')
TRANSFORMS = _child('transform', root.TRANSFORMS, 'datasets')
RUNNERS = _child('runner', root.RUNNERS, 'engine')
LOOPS = _child('loop', root.LOOPS, 'engine')
HOOKS = _child('hook', root.HOOKS, 'engine')
OPTIM_WRAPPERS = _child('optim_wrapper', root.OPTIM_WRAPPERS, 'engine')
OPTIM_WRAPPER_CONSTRUCTORS = _child('optimizer wrapper constructor', root.OPTIM_WRAPPER_CONSTRUCTORS, 'engine')
PARAM_SCHEDULERS = _child('parameter scheduler', root.PARAM_SCHEDULERS, 'engine')
VISBACKENDS = _child('vis_backend', root.VISBACKENDS, 'engine')
METRICS = _child('metric', root.METRICS, 'evaluation')
FUNCTIONS = _child('function', root.FUNCTIONS, 'datasets')
