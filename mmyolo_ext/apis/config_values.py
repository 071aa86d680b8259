"""Values in a config that cannot be meant: found before anything is built.

What a part checks itself when it is built is not repeated here; these are values that would be taken without a word,
or end in an error deep inside another library.
"""

import math
import numbers
import os
from collections.abc import Callable, Iterator, Sequence

from mmengine.config import Config
from mmengine.runner import Priority

from mmyolo_ext.apis.config_nodes import Part, closest, kind, parts, walk
from mmyolo_ext.apis.shortcuts import class_names_fault

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
SIZES = ('size_hw', 'img_scale', 'crop_size', 'size', 'scale')
START_METHODS = ('fork', 'spawn', 'forkserver')
BACKENDS = ('nccl', 'gloo', 'mpi', 'ucc', 'xccl', 'cncl', 'hccl', 'mccl', 'smddp')
LOG_LEVELS = ('DEBUG', 'INFO', 'WARNING', 'WARN', 'ERROR', 'CRITICAL', 'FATAL', 'NOTSET')
# None of these packs; transforms of other names might.
KNOWN_TRANSFORMS = (
    *('LoadImage', 'LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'HorizontalFlip', 'Pad'),
    *('Letterbox', 'RandomAffine', 'Mosaic', 'MosaicAffine', 'MixUp', 'HSVJitter', 'YOLOXHSVRandomAug', 'RandomCrop'),
    *('PhotoMetricDistortion', 'RandomResize', 'RandomChoiceResize', 'Normalize', 'FilterAnnotations'),
)
WORKERS_PER_CPU = 4  # more than these wait for each other, and each holds batches in memory
HIGH_LR = 1.0
Checked = Iterator[tuple[str, str]]


def check_values(cfg: Config) -> Checked:
    """Check the numbers and names of every part of a config.

    Yields:
        ``('error' | 'warning', message)``, naming the config path, what was received and what is allowed.
    """
    for part in parts(cfg):
        for key, value in part.node.items():
            yield from _check_by_name(part, key, value)
        for applies, check in CHECKS:
            if applies(part):
                yield from check(part)
    yield from _check_top(cfg)


def number_fault(value: object, low: float = -math.inf, high: float = math.inf, whole: bool = False) -> str | None:
    """What is wrong with ``value`` as a number from ``low`` to ``high``; None if nothing is.

    A number written as text, as quotes or YAML's ``1e-3`` make it, has an error of its own.
    """
    real = isinstance(value, numbers.Real) and not isinstance(value, bool)
    kind_of = 'a whole number' if whole else 'a number'
    limits = [f'of at least {low}'] if low > -math.inf else []
    limits += [f'at most {high}'] if high < math.inf else []
    wanted = ' '.join([kind_of, ' and '.join(limits)]).strip()
    if isinstance(value, str) and _is_number(value):
        yaml = ' (YAML reads 1e-3 as text, and 0.001 as a number)' if 'e' in value else ''
        return f'must be {wanted}, got the text {value!r}: write it without quotes{yaml}'
    if not real or whole and not isinstance(value, numbers.Integral) or not low <= value <= high:
        return f'must be {wanted}, got {value!r}'
    if not math.isfinite(value):
        return f'must be {wanted}, got {value!r}'
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# Arguments that mean the same wherever they stand below these top-level keys: lowest and highest value, whole numbers.
NUMBERS: dict[str, tuple[tuple[str, ...], float, float, bool]] = {
    'num_classes': (('model',), 1, math.inf, True),
    'widen_factor': (('model',), 1e-3, 100, False),
    'deepen_factor': (('model',), 1e-3, 100, False),
    'frozen_stages': (('model',), -1, math.inf, True),
    'batch_size': (LOADERS, 1, math.inf, True),
    'num_workers': (LOADERS, 0, math.inf, True),
    'prefetch_factor': (LOADERS, 1, math.inf, True),
    'max_epochs': (('train_cfg',), 1, math.inf, True),
    'max_iters': (('train_cfg',), 1, math.inf, True),
    'val_interval': (('train_cfg',), 1, math.inf, True),
    'val_begin': (('train_cfg',), 0, math.inf, True),
    'weight_decay': (('optim_wrapper',), 0, math.inf, False),
    'accumulative_counts': (('optim_wrapper',), 1, math.inf, True),
    'max_norm': (('optim_wrapper',), 1e-12, math.inf, False),
    'T_max': (('param_scheduler',), 1, math.inf, False),
    'gamma': (('param_scheduler',), 0, math.inf, False),
    'warmup_epochs': (('param_scheduler',), 0, math.inf, False),
    'warmup_iters': (('param_scheduler',), 0, math.inf, True),
    'min_warmup_iters': (('param_scheduler',), 0, math.inf, True),
    'start_factor': (('param_scheduler',), 0, math.inf, False),
    'end_factor': (('param_scheduler',), 0, math.inf, False),
    'final_factor': (('param_scheduler',), 0, math.inf, False),
    'window_size': (('log_processor',), 1, math.inf, True),
    'base_batch_size': (('auto_scale_lr',), 1, math.inf, True),
    'seed': (('randomness',), 0, 2**32 - 1, True),
    'opencv_num_threads': (('env_cfg',), 0, math.inf, True),
    'nominal_batch_size': (('default_hooks', 'custom_hooks'), 1, math.inf, True),
    'num_last_epochs': (('default_hooks', 'custom_hooks'), 0, math.inf, True),
    'pad_size_divisor': (('model',), 1, 4096, True),
    'pad_value': (('model',), -math.inf, math.inf, False),
    'iou_threshold': (('model',), 0, 1, False),
    'score_thr': (('model',), 0, 1, False),
}
NONE_ALLOWED = ('seed', 'prefetch_factor', 'max_epochs', 'max_iters', 'frozen_stages', 'score_thr')
OWN_KEYS = ('score_thr',)  # below 'model' these mean the same only in a test_cfg


def _check_by_name(part: Part, key: str, value: object) -> Checked:
    tops, low, high, whole = NUMBERS.get(key, ((), 0, 0, False))
    if part.top not in tops or value is None and key in NONE_ALLOWED:
        return
    if key in OWN_KEYS and 'test_cfg' not in part.keys or key == 'num_classes' and isinstance(value, (list, tuple)):
        return
    if part.top == 'train_cfg' and isinstance(value, float) and value.is_integer():
        value = int(value)  # as MMEngine's loops do
    fault = number_fault(value, low, high, whole)
    if fault:
        yield 'error', f'{part.path}.{key} {fault}'


def _check_loader(part: Part) -> Checked:
    workers = part.node.get('num_workers', 0)
    processors = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1
    if isinstance(workers, int) and workers > WORKERS_PER_CPU * processors:
        yield (
            'warning',
            f'{part.path}.num_workers={workers} on a machine with {processors} processors: more than '
            f'{processors} rarely helps, and each worker takes memory',
        )
    for key in ('persistent_workers', 'prefetch_factor'):
        if part.node.get(key) and workers == 0:
            yield 'error', f'{part.path}: {key}={part.node[key]} needs num_workers of at least 1, got 0'
    if isinstance(part.node.get('dataset'), dict):
        yield from _check_packing(part)
    if 'dataset' not in part.node:
        yield 'error', f'{part.path} has no dataset'


def _check_packing(part: Part) -> Checked:
    """A model gets nothing from a pipeline of known transforms of which none packs."""
    for dataset in walk(part.node['dataset']):
        if dataset.get('pipeline') == [] and 'dataset' not in dataset:
            yield 'error', f'{part.path}: the pipeline of {kind(dataset)} is empty; it must load images and pack them'
    pipelines = [node['pipeline'] for node in walk(part.node['dataset']) if isinstance(node.get('pipeline'), list)]
    kinds = [kind(step) for step in walk(pipelines)]
    if kinds and all(name in KNOWN_TRANSFORMS for name in kinds):
        yield (
            'error',
            f'{part.path}: no transform packs the inputs: end the pipeline with PackDetInputs, got {", ".join(kinds)}',
        )


def _check_loop(part: Part) -> Checked:
    begin, length = part.node.get('val_begin'), part.node.get('max_epochs') or part.node.get('max_iters')
    if isinstance(begin, int) and isinstance(length, int) and begin > length:
        yield 'warning', f'train_cfg.val_begin={begin} is after the end of training ({length}): it never validates'
    for entry in part.node.get('dynamic_intervals') or ():
        if not isinstance(entry, Sequence) or len(entry) != 2 or any(number_fault(n, 0, whole=True) for n in entry):
            yield 'error', f'train_cfg.dynamic_intervals must be pairs (epoch, interval), got {entry!r}'
        elif entry[1] < 1:
            yield 'error', f'train_cfg.dynamic_intervals has the interval {entry[1]}: it must be at least 1'


def _check_hook(part: Part) -> Checked:
    interval = part.node.get('interval', 1)
    fault = number_fault(interval, -1, whole=True)
    if fault or interval == 0:
        yield 'error', f'{part.path}.interval must be a whole number of at least 1, or -1 for never, got {interval!r}'
    kept = part.node.get('max_keep_ckpts', -1)
    if number_fault(kept, -1, whole=True) or kept == 0:
        yield 'error', f'{part.path}.max_keep_ckpts must be at least 1, or -1 to keep all, got {kept!r}'
    rules = part.node.get('rule')
    for rule in rules if isinstance(rules, (list, tuple)) else [rules]:
        if rule not in (None, 'greater', 'less'):
            yield 'error', f"{part.path}.rule must be 'greater' or 'less', got {rule!r}"
    metric = part.cfg.get('val_evaluator')
    metric = metric if isinstance(metric, dict) else {}
    if part.node.get('save_best') == 'auto' and metric.get('classwise', _is_ours(metric)):
        yield 'warning', f"{part.path}.save_best='auto' takes the first score, which is the AP of the first class"
    priority = part.node.get('priority', 'NORMAL')
    if isinstance(priority, str) and priority.upper() not in Priority.__members__:
        yield 'error', f'{part.path}.priority must be one of {", ".join(Priority.__members__)}, got {priority!r}'
    elif number_fault(priority, 0, 100, whole=True) and not isinstance(priority, (str, Priority)):
        yield 'error', f'{part.path}.priority must be a name or a whole number from 0 to 100, got {priority!r}'
    if 'EMA' in kind(part.node):
        momentum = part.node.get('momentum', 0.5)
        if number_fault(momentum, 0, 1) or momentum in (0, 1):
            yield 'error', f'{part.path}.momentum must be between 0 and 1, got {momentum!r}'


def _check_optimizer(part: Part) -> Checked:
    if 'lr' in part.node:
        lr = part.node['lr']
        fault = number_fault(lr, 0)
        if fault:
            yield 'error', f'{part.path}.lr {fault}'
        elif lr == 0:
            yield 'warning', f'{part.path}.lr is 0: nothing will be learnt'
        elif lr > HIGH_LR:
            yield 'warning', f'{part.path}.lr={lr} is far above usual rates (0.0001 to 0.1)'
    momentum = part.node.get('momentum', 0)
    if number_fault(momentum, 0, 1) or momentum == 1:
        yield 'error', f'{part.path}.momentum must be a number from 0 to below 1, got {momentum!r}'
    betas = part.node.get('betas', ())
    if not isinstance(betas, Sequence) or any(number_fault(beta, 0, 1) or beta == 1 for beta in betas):
        yield 'error', f'{part.path}.betas must be numbers from 0 to below 1, got {betas!r}'


def _check_schedule(part: Part) -> Checked:
    begin, end = part.node.get('begin', 0), part.node.get('end', math.inf)
    for key, value in (('begin', begin), ('end', end)):
        if value != math.inf and number_fault(value, 0):
            yield 'error', f'{part.path}.{key} {number_fault(value, 0)}'
            return
    if end <= begin:
        yield 'error', f'{part.path}: end must be after begin, got begin={begin} and end={end}'
    milestones = part.node.get('milestones', ())
    if not isinstance(milestones, Sequence) or any(number_fault(epoch, 0, whole=True) for epoch in milestones):
        yield 'error', f'{part.path}.milestones must be a list of whole numbers, got {milestones!r}'
    elif list(milestones) != sorted(milestones):
        yield 'error', f'{part.path}.milestones must increase, got {milestones!r}'


def _check_anchors(part: Part) -> Checked:
    node, strides = part.node, part.node.get('strides')
    numbers_of = {
        key: list(_flat(node[key])) for key in ('base_sizes', 'scales', 'ratios', 'strides') if node.get(key)
    }
    for key, values in numbers_of.items():
        wrong = [value for value in values if number_fault(value) or value <= 0]
        if wrong:
            name = 'the sizes of anchors (px)' if key == 'base_sizes' else 'these'
            yield 'error', f'{part.path}.{key}: {name} must be numbers above 0, got {wrong[0]!r}'
            return
    sizes = node.get('base_sizes')
    if not isinstance(sizes, Sequence) or not isinstance(strides, Sequence):
        return
    if len(sizes) != len(strides):
        yield (
            'error',
            f'{part.path} has anchors (base_sizes) for {len(sizes)} levels, but {len(strides)} strides '
            f'{tuple(strides)}: give one list of anchors for each stride',
        )
    elif kind(node) == 'YOLOAnchorGenerator':
        yield from _check_yolo_anchors(part, sizes)


def _check_yolo_anchors(part: Part, sizes: Sequence) -> Checked:
    for level in sizes:
        if not isinstance(level, Sequence) or not level or any(not _is_pair(anchor) for anchor in level):
            yield 'error', f'{part.path}.base_sizes must be a list of (width, height) for each level, got {level!r}'
            return
    if len({len(level) for level in sizes}) > 1:
        counts = [len(level) for level in sizes]
        yield 'error', f'{part.path}.base_sizes must have as many anchors on every level, got {counts}'


def _check_preprocessor(part: Part) -> Checked:
    for key in ('mean', 'std'):
        values = part.node.get(key)
        if values is None:
            continue
        if not isinstance(values, Sequence) or len(values) not in (1, 3) or any(map(number_fault, values)):
            yield 'error', f'{part.path}.{key} must be 3 numbers, one per channel, got {values!r}'
        elif key == 'std' and min(values) <= 0:
            yield 'error', f'{part.path}.std must be above 0, got {values!r}'


def _check_head_cfg(part: Part) -> Checked:
    kept = part.node.get('max_per_img', -1)
    if number_fault(kept, -1, whole=True) or kept == 0:
        yield 'error', f'{part.path}.max_per_img must be at least 1, or -1 for all, got {kept!r}'
    before = part.node.get('nms_pre', -1)
    if number_fault(before, whole=True) or before == 0:
        yield 'error', f'{part.path}.nms_pre must be at least 1, or -1 for all, got {before!r}'


def _check_nms(part: Part) -> Checked:
    nms = part.node.get('nms')
    if not isinstance(nms, dict) and (nms is not None or part.path == 'model.test_cfg' and _is_our_head(part.cfg)):
        yield 'error', f"{part.path}.nms must be a dict such as dict(type='nms', iou_threshold=0.65), got {nms!r}"


def _is_our_head(cfg: Config) -> bool:
    return _is_ours((cfg.get('model') or {}).get('bbox_head'))


def _is_ours(node: object) -> bool:
    return isinstance(node, dict) and str(node.get('type')).startswith('mmyolo_ext.')


def _check_loss(part: Part) -> Checked:
    weight = part.node.get('loss_weight', 1.0)
    if not isinstance(weight, (list, tuple)) and number_fault(weight, 0):
        yield 'error', f'{part.path}.loss_weight {number_fault(weight, 0)}'


def _check_indices(part: Part) -> Checked:
    indices = part.node['out_indices']
    given = [indices] if isinstance(indices, int) else indices
    if given is not None and (
        not isinstance(given, Sequence) or not given or any(number_fault(index, whole=True) for index in given)
    ):
        yield 'error', f'{part.path}.out_indices must be a tuple of whole numbers such as (2, 3, 4), got {indices!r}'
    elif isinstance(indices, int) and _is_ours(part.node):
        yield 'error', f'{part.path}.out_indices must be a tuple such as (2, 3, {indices}), got {indices!r}'


def _check_transform(part: Part) -> Checked:
    for key in SIZES:
        sides = part.node.get(key)
        if isinstance(sides, (list, tuple)) and sides and all(isinstance(side, int) for side in sides):
            if key == 'scale' and kind(part.node) not in ('Resize', 'RandomResize'):
                continue
            if min(sides) < 1 and not (kind(part.node) == 'Resize' and -1 in sides):
                yield 'error', f'{part.path}.{key} must be sides above 0 px, got {sides!r}'
    keys = part.node.get('meta_keys', ())
    if not isinstance(keys, (list, tuple)) or not all(isinstance(key, str) for key in keys):
        yield 'error', f'{part.path}.meta_keys must be a list of names, got {keys!r}'
    wants_boxes = part.top == 'train_dataloader' and kind(part.node) == 'LoadAnnotations' and _is_our_head(part.cfg)
    if wants_boxes and part.node.get('with_bbox', True) is not True:
        yield (
            'error',
            f'{part.path}.with_bbox={part.node["with_bbox"]!r}: it must be True because the head learns from boxes',
        )
    probability = part.node.get('prob')
    if isinstance(probability, (str, bool)) or isinstance(probability, numbers.Real) and not 0 <= probability <= 1:
        yield 'error', f'{part.path}.prob must be a number from 0 to 1, got {probability!r}'


def _check_paths(part: Part) -> Checked:
    for key in ('data_root', 'ann_file'):
        if isinstance(part.node.get(key), numbers.Real):
            yield 'error', f'{part.path}.{key} must be a path, got {part.node[key]!r}'


def _check_metainfo(part: Part) -> Checked:
    classes = part.node.get('classes')
    if isinstance(classes, (list, tuple)):
        fault = class_names_fault(classes)
        if fault:
            yield 'error', f'{part.path}.classes: {fault}'


def _check_backend(part: Part) -> Checked:
    match = closest(str(part.node.get('backend', 'nccl')), BACKENDS)
    if part.node.get('backend', 'nccl') not in BACKENDS and match:
        yield 'error', f'{part.path}.backend={part.node["backend"]!r} is not known: did you mean {match!r}?'


def _check_environment(part: Part) -> Checked:
    method = part.node.get('mp_start_method', 'fork')
    if method not in START_METHODS:
        yield 'error', f'{part.path}.mp_start_method must be one of {START_METHODS}, got {method!r}'


def _check_top(cfg: Config) -> Checked:
    level = cfg.get('log_level', 'INFO')
    if not isinstance(level, int) and (not isinstance(level, str) or level not in LOG_LEVELS):
        yield 'error', f'log_level must be one of {", ".join(LOG_LEVELS)}, got {level!r}'
    if not isinstance(cfg.get('resume', False), bool):
        yield 'error', f'resume must be True or False, got {cfg.resume!r}: name a checkpoint by load_from, or --resume'


def _flat(values: object) -> Iterator[object]:
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _flat(value)
    else:
        yield values


def _is_pair(anchor: object) -> bool:
    return isinstance(anchor, Sequence) and len(anchor) == 2


CHECKS: tuple[tuple[Callable[[Part], bool], Callable[[Part], Checked]], ...] = (
    (lambda part: part.path in LOADERS, _check_loader),
    (lambda part: part.path == 'train_cfg', _check_loop),
    (lambda part: part.top in ('default_hooks', 'custom_hooks') and 'type' in part.node, _check_hook),
    (lambda part: part.key == 'optimizer', _check_optimizer),
    (lambda part: part.top == 'param_scheduler' and 'type' in part.node, _check_schedule),
    (lambda part: part.key in ('prior_generator', 'anchor_generator'), _check_anchors),
    (lambda part: part.path == 'model.data_preprocessor', _check_preprocessor),
    (lambda part: part.top == 'model' and part.key in ('test_cfg', 'rpn', 'rcnn'), _check_head_cfg),
    (lambda part: part.top == 'model' and 'test_cfg' in part.keys and 'nms' in part.node, _check_nms),
    (lambda part: part.top == 'model' and 'loss_weight' in part.node, _check_loss),
    (lambda part: part.path == 'model.backbone' and 'out_indices' in part.node, _check_indices),
    (lambda part: 'pipeline' in part.keys and 'type' in part.node, _check_transform),
    (lambda part: part.top in LOADERS or part.top.endswith('_evaluator'), _check_paths),
    (lambda part: part.key == 'metainfo', _check_metainfo),
    (lambda part: part.key == 'mp_cfg', _check_environment),
    (lambda part: part.key == 'dist_cfg', _check_backend),
)
