"""Find misspelt keys and types in a config.

A dict with a ``type`` is compared with the signature of the class or function of that name, others with ``KEYS``.
"""

import inspect
from collections.abc import Callable, Iterator

import mmcv.ops
import torch
from mmengine import registry as root
from mmengine.config import Config
from mmengine.registry import Registry
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop, Runner, TestLoop, ValLoop
from torch.utils.data import DataLoader

from mmyolo_ext.apis.config_nodes import LOADERS, Part, closest, parts
from mmyolo_ext.engine.step_guard import StepGuard

# The registries of the types below a top-level key
AREAS: dict[str, tuple[Registry, ...]] = {
    **dict.fromkeys(('model', 'tta_model'), (root.MODELS, root.TASK_UTILS, root.WEIGHT_INITIALIZERS)),
    **dict.fromkeys(LOADERS, (root.DATASETS, root.TRANSFORMS, root.DATA_SAMPLERS, root.TASK_UTILS, root.FUNCTIONS)),
    **dict.fromkeys(('train_cfg', 'val_cfg', 'test_cfg'), (root.LOOPS,)),
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), (root.METRICS, root.EVALUATOR)),
    **dict.fromkeys(('default_hooks', 'custom_hooks'), (root.HOOKS, root.TRANSFORMS)),
    'tta_pipeline': (root.TRANSFORMS,),
    'optim_wrapper': (root.OPTIM_WRAPPERS, root.OPTIMIZERS),
    'param_scheduler': (root.PARAM_SCHEDULERS,),
    'visualizer': (root.VISUALIZERS, root.VISBACKENDS),
    'log_processor': (root.LOG_PROCESSORS,),
}
# Below these keys, ``type`` is not a name in a registry.
NO_REGISTRY = ('nms', 'clip_grad', 'upsample_cfg', 'worker_init_fn', 'roi_layer')
# Keys that a caller removes before it builds the part
TAKEN_OUT = {
    *('type', '_scope_', 'priority', 'convert_to_iter_based', 'constructor', 'paramwise_cfg', 'override', 'layer'),
    *('name', 'prefix', 'map_location', 'requires_grad', 'train_cfg', 'test_cfg', 'fallback_on_stride'),
    *('class_weight', 'bg_cls_weight', 'metrics'),
}
OUR_HEADS = ('mmyolo_ext.YOLOv5Head', 'mmyolo_ext.YOLOv3Head')


def accepted(built: Callable) -> set[str]:
    """Return the keyword arguments of a class or function; of a class with ``**kwargs`` also those of its bases."""
    keys: set[str] = set()
    for base in built.__mro__[:-1] if inspect.isclass(built) else [built]:
        function = base.__dict__.get('__init__') if inspect.isclass(base) else base
        if function is None:
            continue
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # of C code
            break
        keys |= {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
        if all(p.kind is not p.VAR_KEYWORD for p in parameters):
            break
    return keys - {'self'}


# The keys of dicts without a type, by their path, or by a dot and the key that they stand under.
KEYS: dict[str, set[str]] = {
    **dict.fromkeys(LOADERS, accepted(DataLoader) | {'num_batch_per_epoch'}),
    'train_cfg': accepted(EpochBasedTrainLoop) | accepted(IterBasedTrainLoop) | {'by_epoch'},
    'val_cfg': accepted(ValLoop),
    'test_cfg': accepted(TestLoop),
    'env_cfg': {'cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'},
    'randomness': accepted(Runner.set_randomness),
    'auto_scale_lr': {'enable', 'base_batch_size'},
    'step_guard': accepted(StepGuard),
    'compile_parts': accepted(torch.compile) | {'backend', 'parts'},
    'model.test_cfg': {'score_thr', 'multi_label', 'nms_pre', 'nms', 'max_per_img', 'min_bbox_size'},  # of our heads
    '.nms': accepted(mmcv.ops.nms) | accepted(mmcv.ops.soft_nms) | {'class_agnostic', 'split_thr', 'max_num'},
    '.clip_grad': accepted(torch.nn.utils.clip_grad_norm_) | {'clip_value'},
    '.filter_cfg': {'filter_empty_gt', 'min_size', 'bbox_min_size'},
    '.metainfo': {'classes', 'palette', 'dataset_type', 'task_name'},
    '.paramwise_cfg': {
        *('lr_mult', 'decay_mult', 'bias_lr_mult', 'bias_decay_mult', 'norm_decay_mult', 'flat_decay_mult'),
        *('dwconv_decay_mult', 'dcn_offset_lr_mult', 'bypass_duplicate', 'custom_keys', 'num_layers', 'decay_rate'),
        *('decay_type', 'layer_decay_rate', 'layer_decay'),
    },
}


def check_keys(cfg: Config) -> Iterator[str]:
    """Compare every part of a config with what it may contain.

    Yields:
        A message for each fault: the path in the config, what is wrong and what was probably meant.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    types = {registries: _types(registries, scope) for registries in dict.fromkeys(AREAS.values())}
    scopes = ('mmengine', *root.MODELS.children)
    if scope not in scopes:
        yield f'default_scope must be one of {", ".join(scopes)}, got {scope!r}'
        return
    for part in parts(cfg):
        yield from _check_part(part, types.get(AREAS.get(part.top), {}))


def has_our_head(cfg: Config) -> bool:
    """Return whether the model has a head of this package."""
    head = cfg.model.get('bbox_head')
    return isinstance(head, dict) and head.get('type') in OUR_HEADS


def _types(registries: tuple[Registry, ...], scope: str) -> dict[str, object]:
    """Return all names that a config may write as a type, and what they stand for."""
    found: dict[str, object] = {}
    for registry in registries:
        for child in (registry, *registry.children.values()):
            child.import_from_location()
            registered = {**registry.module_dict, **child.module_dict}
            found.update({f'{child.scope}.{name}': built for name, built in registered.items()})
            if child is registry or child.scope == scope:
                found.update(registered)
    return found


def _check_part(part: Part, types: dict[str, object]) -> Iterator[str]:
    name = part.node.get('type')
    if name is None or part.key in NO_REGISTRY:
        by_path = part.path != 'model.test_cfg' or has_our_head(part.cfg)
        known = KEYS.get(part.path if by_path else '') or KEYS.get(f'.{part.key}') or set()
    else:
        built = types.get(f'{part.node.get("_scope_")}.{name}') or types.get(name) if isinstance(name, str) else name
        if built is None:
            names = {full: full for full in types if '.' in full}
            if '.' not in name:
                names = {full.rsplit('.', 1)[-1]: full for full in sorted(types, key=len, reverse=True)}
            match = closest(name, names)
            if match:
                yield f'{part.path}.type: {name!r} is not registered: did you mean {names[match]!r}?'
            return
        known = accepted(built) | accepted(getattr(built, 'build_iter_from_epoch', built))
    for key in part.node:
        match = key not in known | TAKEN_OUT and closest(key, known)
        if match:
            yield f'{part.path}: {key!r} is not an argument of {name or part.key}: did you mean {match!r}?'
