"""The child registries of mmyolo_ext, scope ``mmyolo_ext``.

Each is a child of MMEngine's root registry, next to those of mmdet, so that a config of either names parts of the
other by scope (``mmdet.CocoDataset``, ``mmyolo_ext.YOLOv5Head``). The modules in ``locations`` are imported when a
registry is first searched.
"""

from mmengine import registry as root

SCOPE = 'mmyolo_ext'


def _child(name: str, parent: root.Registry, *locations: str) -> root.Registry:
    return root.Registry(name, parent=parent, scope=SCOPE, locations=[f'{SCOPE}.{location}' for location in locations])


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
METRICS = _child('metric', root.METRICS, 'evaluation')
FUNCTIONS = _child('function', root.FUNCTIONS, 'datasets')
