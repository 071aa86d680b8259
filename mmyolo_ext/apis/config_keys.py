"""Find unknown types and misspelt keys in a config before anything is built.

Every dict with a ``type`` is compared with the signature of the class or function of that name; dicts without a type
whose readers are known (``env_cfg``, ``test_cfg`` of a head, ...) with lists of keys.
"""

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches

import mmcv.ops
import torch
from mmengine import registry as root
from mmengine.config import Config
from mmengine.dist import init_dist
from mmengine.registry import DefaultScope, Registry
from mmengine.runner import Runner
from mmengine.utils import ManagerMixin
from mmengine.utils.dl_utils.setup_env import set_multi_processing
from torch.utils.data import DataLoader

from mmyolo_ext.apis.config_nodes import LOADERS, Part, closest, parts
from mmyolo_ext.engine.step_guard import StepGuard

CLOSE_TYPE = 0.75  # of difflib's ratio: 'YOLOv9Head' to 'YOLOv5Head' has 0.9
AREA_MODEL = (root.MODELS, root.TASK_UTILS, root.WEIGHT_INITIALIZERS)
AREA_DATA = (root.DATASETS, root.TRANSFORMS, root.DATA_SAMPLERS, root.TASK_UTILS)
# The registries of the parts under a top-level key, where that is certain: at the first level
AREAS: dict[str, tuple[Registry, ...]] = {
    **dict.fromkeys(('model', 'tta_model'), AREA_MODEL),
    **dict.fromkeys(LOADERS, AREA_DATA),
    **dict.fromkeys(('train_cfg', 'val_cfg', 'test_cfg'), (root.LOOPS,)),
    **dict.fromkeys(('val_evaluator', 'test_evaluator'), (root.METRICS, root.EVALUATOR)),
    **dict.fromkeys(('default_hooks', 'custom_hooks'), (root.HOOKS,)),
    'tta_pipeline': (root.TRANSFORMS,),
    'optim_wrapper': (root.OPTIM_WRAPPERS,),
    'param_scheduler': (root.PARAM_SCHEDULERS,),
    'visualizer': (root.VISUALIZERS,),
    'log_processor': (root.LOG_PROCESSORS,),
}
# and of the parts under a key, at any depth.
SLOTS: dict[str, tuple[Registry, ...]] = {
    **dict.fromkeys(('dataset', 'datasets'), (root.DATASETS,)),
    **dict.fromkeys(('pipeline', 'switch_pipeline', 'transforms'), (root.TRANSFORMS,)),
    **dict.fromkeys(('backbone', 'neck', 'bbox_head', 'rpn_head', 'roi_head', 'data_preprocessor'), (root.MODELS,)),
    **dict.fromkeys(('loss_cls', 'loss_bbox', 'loss_obj', 'loss_centerness'), (root.MODELS,)),
    **dict.fromkeys(('assigner', 'bbox_coder', 'prior_generator', 'anchor_generator'), (root.TASK_UTILS,)),
    'init_cfg': (root.WEIGHT_INITIALIZERS,),
    'optimizer': (root.OPTIMIZERS,),
    'collate_fn': (root.FUNCTIONS,),
    'vis_backends': (root.VISBACKENDS,),
    'metrics': (root.METRICS,),
}
# Under these keys, ``type`` is not a name in a registry.
NO_REGISTRY = ('nms', 'clip_grad', 'upsample_cfg', 'worker_init_fn', 'roi_layer')
NMS_TYPES = ('nms', 'soft_nms', 'nms_match')
NMS_KEYS = ('class_agnostic', 'split_thr', 'max_num', 'iou_thr')
# Keys that a caller removes before it builds the part.
TAKEN_OUT: dict[Registry, tuple[str, ...]] = {
    root.HOOKS: ('priority',),
    root.PARAM_SCHEDULERS: ('convert_to_iter_based',),
    root.OPTIM_WRAPPERS: ('constructor', 'paramwise_cfg'),
    root.WEIGHT_INITIALIZERS: ('override', 'layer', 'name', 'prefix', 'map_location'),
    root.MODELS: ('requires_grad', 'train_cfg', 'test_cfg', 'fallback_on_stride', 'class_weight', 'bg_cls_weight'),
    root.EVALUATOR: ('metrics',),
}
# Where no caller removes other keys, a key that the type does not have is certainly an error.
STRICT = (
    *(root.TRANSFORMS, root.HOOKS, root.LOOPS, root.OPTIMIZERS, root.PARAM_SCHEDULERS, root.METRICS),
    *(root.OPTIM_WRAPPERS, root.LOG_PROCESSORS),
)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


def _arguments(function: Callable) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


LOOPS = {
    'train_cfg': ('EpochBasedTrainLoop', 'IterBasedTrainLoop'),
    'val_cfg': ('ValLoop',),
    'test_cfg': ('TestLoop',),
}
NEED_TYPE = ('model', 'model.backbone', 'model.neck', 'model.bbox_head', 'optim_wrapper.optimizer', 'param_scheduler')
LISTS = ('pipeline', 'switch_pipeline', 'transforms', 'datasets', 'metrics', 'vis_backends')
DICTS = ('train_cfg', 'test_cfg', 'mp_cfg', 'dist_cfg', 'metainfo', 'data_prefix')
HEAD_CFGS = ('train_cfg', 'test_cfg')
LOADER_KEYS = (*_arguments(DataLoader.__init__)[1:], 'num_batch_per_epoch')
OUR_HEAD_TEST_KEYS = ('score_thr', 'multi_label', 'nms_pre', 'nms', 'max_per_img', 'min_bbox_size')
HEAD_TEST_KEYS = _names(
    'score_thr conf_thr nms_pre nms_post nms max_per_img max_per_image min_bbox_size multi_label with_nms '
    'score_voting mask_thr mask_thr_binary rpn rcnn max_num_grid topk top_k corner_topk local_maximum_kernel '
    'kernel sigma filter_thr iou_thr panoptic panoptic_on semantic_on instance_on filter_low_score '
    'object_mask_thr chunked_size distance_threshold fast_nms pre_thr nms_thr max_iters nms_across_levels '
    'max_num'
)
HEAD_TRAIN_KEYS = _names(
    'assigner sampler allowed_border pos_weight debug rpn rcnn rpn_proposal nms_pre nms max_per_img '
    'min_bbox_size mask_size carl isr alpha beta center_ratio ignore_ratio ignore_iof_thr ga_assigner '
    'ga_sampler init refine initial_epoch reg_assigner initial_assigner neg_pos_ratio num_points '
    'oversample_ratio importance_sample_ratio smoothl1_beta pos_radius max_num_grid nms_post gamma '
    'dynamic_rcnn mask_thr_binary score_thr score_factor perm_repeat_gt_cfg multi_label'
)
# Dicts without a type, by the key that they stand under.
FREE_DICTS: dict[str, Iterable[str]] = {
    'env_cfg': ('cudnn_benchmark', 'mp_cfg', 'dist_cfg', 'resource_limit'),
    'mp_cfg': _arguments(set_multi_processing),
    'dist_cfg': (*_arguments(init_dist)[1:-1], 'timeout', 'init_method', 'world_size', 'rank', 'port', 'store'),
    'randomness': _arguments(Runner.set_randomness)[1:],
    'auto_scale_lr': ('enable', 'base_batch_size'),
    'custom_imports': ('imports', 'allow_failed_imports'),
    'filter_cfg': ('filter_empty_gt', 'min_size', 'bbox_min_size'),
    'data_prefix': _names('img img_path seg ann anno sub_data_root proposals img_prefix sub_img_path'),
    'metainfo': ('classes', 'palette', 'dataset_type', 'task_name'),
    'clip_grad': (
        *('type', 'max_norm', 'norm_type', 'error_if_nonfinite', 'foreach', 'clip_value', 'max_grad', 'mode'),
    ),
    'paramwise_cfg': _names(
        'lr_mult decay_mult bias_lr_mult bias_decay_mult norm_decay_mult flat_decay_mult dwconv_decay_mult '
        'dcn_offset_lr_mult bypass_duplicate custom_keys num_layers decay_rate decay_type layer_decay_rate '
        'layer_decay'
    ),
    'rpn_proposal': HEAD_TEST_KEYS,
    'step_guard': _arguments(StepGuard.__init__)[1:],
    'compile_parts': ('backend', 'parts', *_arguments(torch.compile)[1:]),
}
# Of these the list is complete: nothing reads another key.
COMPLETE = ('step_guard', 'compile_parts', 'env_cfg', 'mp_cfg', 'randomness', 'auto_scale_lr', 'custom_imports')
Findings = Iterator[tuple[str, str]]


def check_keys(cfg: Config) -> Findings:
    """Compare every part of a config with the arguments of its type.

    Yields:
        ``('error' | 'warning', message)``, naming the config path, what is wrong and what was probably meant.
    """
    scope, scopes = cfg.get('default_scope') or 'mmengine', {'mmengine', *root.MODELS.children}
    root.MODELS.import_from_location()
    with DefaultScope.overwrite_default_scope(scope):
        with root.MODELS.switch_scope_and_registry(None) as registry:
            is_known = registry.scope == scope
        if not is_known:
            match = closest(scope, scopes)
            advice = f'did you mean {match!r}?' if match else f'known are {_listed(scopes)}'
            yield 'error', f'default_scope: {scope!r} is not a package with registries: {advice}'
            return
        constructor = (cfg.get('optim_wrapper') or {}).get('constructor', 'DefaultOptimWrapperConstructor')
        for path, name, registry in (
            ('runner_type', cfg.get('runner_type', 'Runner'), root.RUNNERS),
            ('optim_wrapper.constructor', constructor, root.OPTIM_WRAPPER_CONSTRUCTORS),
        ):
            if not _resolve(name, (registry,)):
                yield 'error', f'{path}: {name!r} is not a registered {registry.name}{_meant(str(name), (registry,))}'
        for part in parts(cfg):
            yield from _check_part(part)


def unknown_type(path: str, name: str, registries: tuple[Registry, ...]) -> str:
    """Return the message on a type that is not registered."""
    where = f'{path}.type' if path else 'type'
    scope = name.split('.')[0] if '.' in name else None
    if scope and scope not in {child.scope for registry in registries for child in registry.children.values()}:
        return (
            f'{where}: {name!r} is not known: install the package {scope!r} and add it to custom_imports, '
            'or use a type of mmdet or mmyolo_ext'
        )
    kinds = ' or '.join(dict.fromkeys(registry.name for registry in registries[:2]))
    advice = _meant(name, registries) or '; is its module in custom_imports?'
    return f'{where}: {name!r} is not a registered {kinds}{advice}'


def unknown_key(path: str, key: str, known: Iterable[str], of: str) -> str | None:
    """Return the message on a key that is close to one of ``known``; None if it is not close to any."""
    match = closest(key, known)
    return f'{path}: {key!r} is not an argument of {of}: did you mean {match!r}?' if match else None


@functools.lru_cache(maxsize=4096)
def accepted(built: object) -> tuple[frozenset[str], bool]:
    """Return the keyword arguments of a class or function, and whether these are certainly all.

    For a class that passes ``**kwargs`` on, the arguments of its bases are added; it may still remove some of them.
    """
    if not inspect.isclass(built):
        return _parameters(built)
    keys, certain = {'name'} if issubclass(built, ManagerMixin) else set(), True
    for base in built.__mro__[:-1]:
        init = base.__dict__.get('__init__')
        if init is not None:
            own, closed = _parameters(init)
            keys |= own
            if closed:
                break
            certain = False
    return frozenset(keys - {'self'}), certain


def _parameters(function: Callable) -> tuple[frozenset[str], bool]:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # of C code
        return frozenset(), False
    keys = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    while hasattr(function, '__wrapped__'):  # old names that mmengine's deprecated_api_warning still accepts
        free = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
        keys |= set(free.get('name_dict') or ())
        function = function.__wrapped__
    return frozenset(keys), all(p.kind is not p.VAR_KEYWORD for p in parameters)


def _resolve(name: object, registries: tuple[Registry, ...], scope: str | None = None) -> list[object]:
    """Return what ``type`` stands for in each of the registries that know it, within the default scope."""
    if not isinstance(name, str):
        return [name] if callable(name) else []
    if not name or not isinstance(scope, (str, type(None))):
        return []
    default = DefaultScope.get_current_instance()
    found = (_find(name, registry, scope, default and default.scope_name) for registry in registries)
    return [built for built in found if built is not None]


@functools.lru_cache(maxsize=4096)
def _find(name: str, registry: Registry, scope: str | None, default_scope: str | None) -> object | None:
    """Look a name up; the registry reads ``default_scope`` itself, here it is part of the key of the cache."""
    if registry is root.FUNCTIONS:  # MMEngine looks these up without a scope
        return registry.get(name)
    with registry.switch_scope_and_registry(scope) as found:
        return found.get(name)


def _meant(name: str, registries: tuple[Registry, ...]) -> str:
    """Return ": did you mean ...?" with registered names close to ``name``, and the scope that a config has to add."""
    scope = DefaultScope.get_current_instance()
    plain = {}
    for registry in registries:
        for child in (registry, *registry.children.values()):
            prefix = '' if child is registry or scope and child.scope == scope.scope_name else f'{child.scope}.'
            plain.update({key.lower(): prefix + key for key in child.module_dict})
    close = get_close_matches(name.rsplit('.', 1)[-1].lower(), plain, n=3, cutoff=CLOSE_TYPE)
    return f': did you mean {" or ".join(repr(plain[key]) for key in close)}?' if close else ''


def _check_part(part: Part) -> Findings:
    path, node, key = part.path, part.node, part.key
    for name, value in node.items():
        if isinstance(value, (dict, list, tuple, type(None))) or callable(value):
            continue
        if name in SLOTS or path == 'default_hooks' or path in LOADERS and name in ('sampler', 'batch_sampler'):
            wanted = 'a list of dicts' if name in LISTS else 'a dict'
            yield 'error', f'{path}.{name} must be {wanted} with a type, got {value!r}'
        elif name in DICTS and (part.top == 'model' or name not in HEAD_CFGS):
            yield 'error', f'{path}.{name} must be a dict, got {value!r}'
    if key == 'nms' and part.top == 'model':
        yield from _check_nms(path, node)
    elif key == 'roi_layer' and part.top == 'model':
        layer = getattr(mmcv.ops, str(node.get('type')), None)
        for name in node if layer else ():
            message = name != 'type' and unknown_key(path, name, accepted(layer)[0] - {name}, node['type'])
            if message and name not in accepted(layer)[0]:
                yield 'error', message
    elif key in HEAD_CFGS and part.top == 'model' or key in ('rpn', 'rcnn') and part.parent in HEAD_CFGS:
        yield from _check_head_cfg(part)
    elif path in LOADERS:
        yield from _check_complete(path, node, LOADER_KEYS, 'a dataloader')
    elif key in FREE_DICTS and 'type' not in node or key == 'clip_grad':
        yield from _check_free(path, node, FREE_DICTS[key], key in COMPLETE)
    elif part.parent == 'default_hooks' and 'type' not in node:
        known = {name for name in part.cfg.default_hooks if name != key}
        known |= {'runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint'}
        match = closest(key, known)
        advice = f'did you mean default_hooks.{match}?' if match else f'add one, or use one of {_listed(known)}'
        yield 'error', f'{path} has no type: {advice}'
    elif path in LOOPS and 'type' not in node:
        loops = [root.LOOPS.get(loop) for loop in LOOPS[path]]
        known = frozenset().union(*(accepted(loop)[0] for loop in loops), {'by_epoch'})
        yield from _check_complete(path, node, known, LOOPS[path][0])
    elif 'type' not in node and node and _needs_type(part):
        yield 'error', f'{path} has no type, got {_listed(node)}'
    elif 'type' in node and key not in NO_REGISTRY:
        registries, certain = _registries(part)
        if registries:
            yield from _check_type(path, node, registries, certain)


def _needs_type(part: Part) -> bool:
    in_list = part.path.endswith(']')
    data = part.top in LOADERS and part.key in ('dataset', 'sampler')
    return data or part.key in ('pipeline', 'custom_hooks', 'param_scheduler') and in_list or part.path in NEED_TYPE


def _registries(part: Part) -> tuple[tuple[Registry, ...], bool]:
    """Return where a type is looked up, and whether a type that is not found there is certainly an error."""
    if part.key in SLOTS:
        return SLOTS[part.key], True
    if part.top in LOADERS and part.keys[1:] in (('sampler',), ('batch_sampler',)):
        return (root.DATA_SAMPLERS,), True
    direct = len(part.keys) <= (2 if part.top == 'default_hooks' else 1)
    if direct or part.top in ('model', 'tta_model', *LOADERS):
        return AREAS.get(part.top, ()), direct
    return (), False


def _check_type(path: str, node: dict, registries: tuple[Registry, ...], certain: bool) -> Findings:
    name = node['type']
    if not isinstance(name, str) and not callable(name):
        yield 'error', f'{path}.type must be the name of a registered {registries[0].name}, got {name!r}'
        return
    found = _resolve(name, registries, node.get('_scope_'))
    if not found:
        if certain:
            yield 'error', unknown_type(path, name, registries)
        return
    taken_out = {key for registry in registries for key in TAKEN_OUT.get(registry, ())} | {'type', '_scope_'}
    from_epochs = 'build_iter_from_epoch' if node.get('convert_to_iter_based') else ''
    signatures = [accepted(built) for built in found]
    signatures += [accepted(getattr(built, from_epochs)) for built in found if hasattr(built, from_epochs)]
    known = frozenset().union(*(keys for keys, _ in signatures))
    strict = all(certain for _, certain in signatures) and registries[0] in STRICT
    of = name if isinstance(name, str) else name.__name__
    for key in node:
        if key not in known and key not in taken_out:
            message = unknown_key(path, key, known | taken_out, of)
            if message is None and strict:
                message = f'{path}: {key!r} is not an argument of {of}, which has {_listed(known - {"self"})}'
            if message:
                yield 'error', message


def _check_nms(path: str, node: dict) -> Findings:
    name = node.get('type', 'nms')
    function = getattr(mmcv.ops, name, None) if isinstance(name, str) else name
    if callable(function):
        known = {*accepted(function)[0], *NMS_KEYS, 'type'} - {'boxes', 'scores', 'dets'}
        yield from _check_complete(path, node, known, name)
    else:
        match = closest(str(name), NMS_TYPES)
        yield 'error', f'{path}.type must be one of {NMS_TYPES}, got {name!r}' + (f': {match!r}?' if match else '')


def _check_complete(path: str, node: dict, known: Iterable[str], of: str) -> Findings:
    for key in node:
        if key not in known:
            message = f'{path}: {key!r} is not an argument of {of}, which has {_listed(known)}'
            yield 'error', unknown_key(path, key, known, of) or message


def _check_head_cfg(part: Part) -> Findings:
    path, node = part.path, part.node
    yield from _check_free(path, node, HEAD_TEST_KEYS if 'test_cfg' in path else HEAD_TRAIN_KEYS, False)
    head = part.cfg.model.get('bbox_head')
    head = str(head.get('type')) if isinstance(head, dict) else ''
    if path == 'model.test_cfg' and head in ('mmyolo_ext.YOLOv5Head', 'mmyolo_ext.YOLOv3Head'):
        for key in node:
            if key in HEAD_TEST_KEYS and key not in OUR_HEAD_TEST_KEYS:
                yield 'warning', f'{path}.{key} is not read by {head}, which reads {_listed(OUR_HEAD_TEST_KEYS)}'


def _check_free(path: str, node: dict, known: Iterable[str], complete: bool) -> Findings:
    for key in node:
        if isinstance(key, str) and key not in known:
            match = closest(key, known)
            if match:
                yield 'error', f'{path}: nothing reads {key!r}: did you mean {match!r}?'
            elif complete:
                yield 'warning', f'{path}: nothing reads {key!r}; the keys of {path} are {_listed(known)}'


def _listed(known: Iterable) -> str:
    return ', '.join(sorted(map(str, known)))
