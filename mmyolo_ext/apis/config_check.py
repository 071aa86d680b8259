"""Check a config: keys, types and values that cannot be meant.

Errors that a part raises itself when it is built are not repeated here; these are values that would be accepted
silently, or end in an error deep inside another library.
"""

import math
import numbers
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Priority

from mmyolo_ext.apis.config import unread_variables
from mmyolo_ext.apis.config_keys import check_keys
from mmyolo_ext.apis.config_nodes import LOADERS, Part, closest, kind, parts, walk
from mmyolo_ext.apis.shortcuts import class_names_fault

MAX_ERRORS_NAMED = 3
NEEDED = {
    'train': ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    'test': ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'),
}
HOOKS = ('default_hooks', 'custom_hooks')
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
WORKERS_PER_CPU = 4  # more than these wait for each other, and each keeps batches in memory
HIGH_LR = 1.0
Findings = Iterator[tuple[str, str]]


def check_config(cfg: Config, job: str) -> None:
    """Compare every key, type and number of a config with what reads it; print warnings.

    ``check = 'off'`` in the config skips all but the sections that a run needs.

    Args:
        cfg: A config read by :func:`mmyolo_ext.apis.load_config`.
        job: 'train' or 'test'.

    Raises:
        ValueError: Naming up to three faults, each by its path in the config, and what to write instead.
    """
    missing = [key for key in NEEDED[job] if cfg.get(key) is None]
    if missing:
        advice = "; begin your config with _base_ = 'a config of configs/'" if 'model' in missing else ''
        raise ValueError(f'{cfg.filename or "the config"} has no {", ".join(missing)}, which to {job} needs{advice}')
    if cfg.get('check', 'on') not in ('on', 'off'):
        raise ValueError(f"check must be 'on' or 'off', got {cfg.check!r}")
    if cfg.get('check') == 'off':
        return
    found = list(dict.fromkeys(check(cfg)))
    if int(os.environ.get('RANK', 0)) == 0:
        warnings = [message for level, message in found if level == 'warning']
        for message in (*warnings, *unread_variables(Path(cfg.filename or ''))):
            print(f'warning: {message}', file=sys.stderr, flush=True)
    errors = [message for level, message in found if level == 'error']
    # most configs use one dict for validation and test: name its errors once
    errors = [e for e in errors if not (e.startswith('test_') and e.replace('test_', 'val_', 1) in errors)]
    if errors:
        more = f' (and {len(errors) - MAX_ERRORS_NAMED} more)' if len(errors) > MAX_ERRORS_NAMED else ''
        raise ValueError('; '.join(errors[:MAX_ERRORS_NAMED]) + more)


def check(cfg: Config) -> Findings:
    """Yield every fault of a config as ``('error' | 'warning', message)``."""
    yield from check_keys(cfg)
    for part in parts(cfg):
        for key, value in part.node.items():
            fault = _number_fault(part, key, value)
            if fault:
                yield 'error', f'{part.path}.{key} {fault}'
        for applies, key, accepts, wanted in VALUES:
            if key in part.node and applies(part) and not accepts(part.node[key]):
                yield 'error', f'{part.path}.{key} must be {wanted}, got {part.node[key]!r}'
        for applies, check_part in CHECKS:
            if applies(part):
                yield from check_part(part)
    level = cfg.get('log_level', 'INFO')
    if not isinstance(level, int) and level not in LOG_LEVELS:
        yield 'error', f'log_level must be one of {", ".join(LOG_LEVELS)}, got {level!r}'
    if not isinstance(cfg.get('resume', False), bool):
        yield 'error', f'resume must be True or False, got {cfg.resume!r}: name a checkpoint by load_from, or --resume'


def number_fault(value: object, low: float = -math.inf, high: float = math.inf, whole: bool = False) -> str | None:
    """Return what is wrong with ``value`` as a finite number from ``low`` to ``high``; None if nothing is."""
    limits = [f'of at least {low}'] if low > -math.inf else []
    limits += [f'at most {high}'] if high < math.inf else []
    wanted = ' '.join(['a whole number' if whole else 'a number', ' and '.join(limits)]).strip()
    if isinstance(value, str) and _is_number(value):
        yaml = ' (YAML reads 1e-3 as text, and 0.001 as a number)' if 'e' in value else ''
        return f'must be {wanted}, got the text {value!r}: write it without quotes{yaml}'
    is_number = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if not is_number or not low <= value <= high or not math.isfinite(value):
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
    'loss_weight': (('model',), 0, math.inf, False),
    'pad_size_divisor': (('model',), 1, 4096, True),
    'pad_value': (('model',), -math.inf, math.inf, False),
    'iou_threshold': (('model',), 0, 1, False),
    'score_thr': (('model',), 0, 1, False),
    'batch_size': (LOADERS, 1, math.inf, True),
    'num_workers': (LOADERS, 0, math.inf, True),
    'prefetch_factor': (LOADERS, 1, math.inf, True),
    'max_epochs': (('train_cfg',), 1, math.inf, True),
    'max_iters': (('train_cfg',), 1, math.inf, True),
    'val_interval': (('train_cfg',), 1, math.inf, True),
    'val_begin': (('train_cfg',), 0, math.inf, True),
    'lr': (('optim_wrapper',), 0, math.inf, False),
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
    'nominal_batch_size': (HOOKS, 1, math.inf, True),
    'num_last_epochs': (HOOKS, 0, math.inf, True),
}
NONE_ALLOWED = ('seed', 'prefetch_factor', 'max_epochs', 'max_iters', 'frozen_stages', 'score_thr')


def _number_fault(part: Part, key: str, value: object) -> str | None:
    tops, low, high, whole = NUMBERS.get(key, ((), 0, 0, False))
    if part.top not in tops or value is None and key in NONE_ALLOWED:
        return None
    if key == 'score_thr' and 'test_cfg' not in part.keys or key == 'lr' and part.key != 'optimizer':
        return None
    if key in ('num_classes', 'loss_weight') and isinstance(value, (list, tuple)):
        return None
    if part.top == 'train_cfg' and isinstance(value, float) and value.is_integer():
        value = int(value)  # as MMEngine's loops do
    return number_fault(value, low, high, whole)


def _count_or_minus_one(value: object) -> bool:
    return not number_fault(value, -1, whole=True) and value != 0


def _below_one(value: object) -> bool:
    return not number_fault(value, 0, 1) and value != 1


def _three_numbers(value: object) -> bool:
    return value is None or isinstance(value, Sequence) and len(value) in (1, 3) and not any(map(number_fault, value))


def _is_hook(part: Part) -> bool:
    return part.top in HOOKS and 'type' in part.node


def _is_head_cfg(part: Part) -> bool:
    return part.top == 'model' and part.key in ('test_cfg', 'rpn', 'rcnn')


def _is_transform(part: Part) -> bool:
    return 'pipeline' in part.keys and 'type' in part.node


def _is_data(part: Part) -> bool:
    return part.top in LOADERS or part.top.endswith('_evaluator')


# (which parts, argument, accepted values, what they are)
VALUES: tuple[tuple[Callable[[Part], bool], str, Callable[[object], bool], str], ...] = (
    (_is_hook, 'interval', _count_or_minus_one, 'a whole number of at least 1, or -1 for never'),
    (_is_hook, 'max_keep_ckpts', _count_or_minus_one, 'at least 1, or -1 to keep all'),
    (
        *(_is_hook, 'rule'),
        lambda rules: all(
            rule in (None, 'greater', 'less') for rule in (rules if isinstance(rules, (list, tuple)) else [rules])
        ),
        "'greater' or 'less'",
    ),
    (
        *(_is_hook, 'priority'),
        lambda value: (
            value.upper() in Priority.__members__
            if isinstance(value, str)
            else isinstance(value, Priority) or not number_fault(value, 0, 100, whole=True)
        ),
        f'one of {", ".join(Priority.__members__)}, or a whole number from 0 to 100',
    ),
    (
        *(lambda part: _is_hook(part) and 'EMA' in kind(part.node), 'momentum'),
        *(lambda value: _below_one(value) and value != 0, 'between 0 and 1'),
    ),
    (lambda part: part.key == 'optimizer', 'momentum', _below_one, 'a number from 0 to below 1'),
    (
        *(lambda part: part.key == 'optimizer', 'betas'),
        lambda betas: isinstance(betas, Sequence) and all(map(_below_one, betas)),
        'numbers from 0 to below 1',
    ),
    (_is_head_cfg, 'max_per_img', _count_or_minus_one, 'at least 1, or -1 for all'),
    (
        *(_is_head_cfg, 'nms_pre'),
        lambda value: not number_fault(value, whole=True) and value != 0,
        'at least 1, or -1 for all',
    ),
    (
        *(lambda part: part.top == 'model' and 'test_cfg' in part.keys and not _may_be_none(part), 'nms'),
        *(lambda nms: isinstance(nms, dict), "a dict such as dict(type='nms', iou_threshold=0.65)"),
    ),
    (lambda part: part.path == 'model.data_preprocessor', 'mean', _three_numbers, '3 numbers, one per channel'),
    (
        *(lambda part: part.path == 'model.data_preprocessor', 'std'),
        lambda std: _three_numbers(std) and (std is None or min(std) > 0),
        '3 numbers above 0, one per channel',
    ),
    (
        *(_is_transform, 'meta_keys'),
        lambda keys: isinstance(keys, (list, tuple)) and all(isinstance(key, str) for key in keys),
        'a list of names',
    ),
    (
        *(_is_transform, 'prob'),
        lambda value: (
            not isinstance(value, (str, bool)) and not (isinstance(value, numbers.Real) and not 0 <= value <= 1)
        ),
        'a number from 0 to 1',
    ),
    (_is_data, 'data_root', lambda value: not isinstance(value, numbers.Real), 'a path'),
    (_is_data, 'ann_file', lambda value: not isinstance(value, numbers.Real), 'a path'),
    (
        *(lambda part: part.key == 'mp_cfg', 'mp_start_method'),
        *(lambda value: value in START_METHODS, f'one of {START_METHODS}'),
    ),
)


def _may_be_none(part: Part) -> bool:
    return part.node['nms'] is None and not (part.path == 'model.test_cfg' and _has_our_head(part.cfg))


def _has_our_head(cfg: Config) -> bool:
    return _is_ours((cfg.get('model') or {}).get('bbox_head'))


def _is_ours(node: object) -> bool:
    return isinstance(node, dict) and str(node.get('type')).startswith('mmyolo_ext.')


def _check_loader(part: Part) -> Findings:
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
    if 'dataset' not in part.node:
        yield 'error', f'{part.path} has no dataset'
    datasets = list(walk(part.node.get('dataset')))
    for dataset in datasets:
        if dataset.get('pipeline') == [] and 'dataset' not in dataset:
            yield 'error', f'{part.path}: the pipeline of {kind(dataset)} is empty; it must load images and pack them'
    pipelines = [node['pipeline'] for node in datasets if isinstance(node.get('pipeline'), list)]
    kinds = [kind(step) for step in walk(pipelines)]
    if kinds and all(name in KNOWN_TRANSFORMS for name in kinds):
        yield (
            'error',
            f'{part.path}: no transform packs the inputs: end the pipeline with PackDetInputs, got {", ".join(kinds)}',
        )


def _check_loop(part: Part) -> Findings:
    begin, length = part.node.get('val_begin'), part.node.get('max_epochs') or part.node.get('max_iters')
    if isinstance(begin, int) and isinstance(length, int) and begin > length:
        yield 'warning', f'train_cfg.val_begin={begin} is after the end of training ({length}): it never validates'
    for entry in part.node.get('dynamic_intervals') or ():
        if not isinstance(entry, Sequence) or len(entry) != 2 or any(number_fault(n, 0, whole=True) for n in entry):
            yield 'error', f'train_cfg.dynamic_intervals must be pairs (epoch, interval), got {entry!r}'
        elif entry[1] < 1:
            yield 'error', f'train_cfg.dynamic_intervals has the interval {entry[1]}: it must be at least 1'


def _check_best(part: Part) -> Findings:
    metric = part.cfg.get('val_evaluator')
    metric = metric if isinstance(metric, dict) else {}
    if part.node.get('save_best') == 'auto' and metric.get('classwise', _is_ours(metric)):
        yield 'warning', f"{part.path}.save_best='auto' takes the first score, which is the AP of the first class"


def _check_lr(part: Part) -> Findings:
    lr = part.node.get('lr', 0.01)
    if lr == 0:
        yield 'warning', f'{part.path}.lr is 0: the model will not learn'
    elif not number_fault(lr, 0) and lr > HIGH_LR:
        yield 'warning', f'{part.path}.lr={lr} is far above usual rates (0.0001 to 0.1)'


def _check_schedule(part: Part) -> Findings:
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


def _check_anchors(part: Part) -> Findings:
    node, strides, sizes = part.node, part.node.get('strides'), part.node.get('base_sizes')
    for key in ('base_sizes', 'scales', 'ratios', 'strides'):
        for value in _flat(node.get(key) or ()):
            if number_fault(value) or value <= 0:
                name = 'the sizes of anchors (px)' if key == 'base_sizes' else 'these'
                yield 'error', f'{part.path}.{key}: {name} must be numbers above 0, got {value!r}'
                return
    if not isinstance(sizes, Sequence) or not isinstance(strides, Sequence):
        return
    if len(sizes) != len(strides):
        yield (
            'error',
            f'{part.path} has anchors (base_sizes) for {len(sizes)} levels, but {len(strides)} strides '
            f'{tuple(strides)}: give one list of anchors for each stride',
        )
    elif kind(node) == 'YOLOAnchorGenerator':
        for level in sizes:
            pairs = isinstance(level, Sequence) and all(isinstance(a, Sequence) and len(a) == 2 for a in level)
            if not pairs or not level:
                yield (
                    'error',
                    f'{part.path}.base_sizes must be a list of (width, height) for each level, got {level!r}',
                )
                return
        counts = [len(level) for level in sizes]
        if len(set(counts)) > 1:
            yield 'error', f'{part.path}.base_sizes must have as many anchors on every level, got {counts}'


def _flat(values: object) -> Iterator[object]:
    if isinstance(values, (list, tuple)):
        for value in values:
            yield from _flat(value)
    else:
        yield values


def _check_indices(part: Part) -> Findings:
    indices = part.node['out_indices']
    given = [indices] if isinstance(indices, int) else indices
    if given is not None and (
        not isinstance(given, Sequence) or not given or any(number_fault(index, whole=True) for index in given)
    ):
        yield 'error', f'{part.path}.out_indices must be a tuple of whole numbers such as (2, 3, 4), got {indices!r}'
    elif isinstance(indices, int) and _is_ours(part.node):
        yield 'error', f'{part.path}.out_indices must be a tuple such as (2, 3, {indices}), got {indices!r}'


def _check_transform(part: Part) -> Findings:
    name = kind(part.node)
    for key in SIZES:
        sides = part.node.get(key)
        if isinstance(sides, (list, tuple)) and sides and all(isinstance(side, int) for side in sides):
            is_factor = key == 'scale' and name not in ('Resize', 'RandomResize')
            if min(sides) < 1 and not is_factor and not (name == 'Resize' and -1 in sides):
                yield 'error', f'{part.path}.{key} must be sides above 0 px, got {sides!r}'
    needs_boxes = part.top == 'train_dataloader' and name == 'LoadAnnotations' and _has_our_head(part.cfg)
    if needs_boxes and part.node.get('with_bbox', True) is not True:
        yield (
            'error',
            f'{part.path}.with_bbox={part.node["with_bbox"]!r}: it must be True because the head learns from boxes',
        )


def _check_metainfo(part: Part) -> Findings:
    classes = part.node.get('classes')
    fault = class_names_fault(classes) if isinstance(classes, (list, tuple)) else None
    if fault:
        yield 'error', f'{part.path}.classes: {fault}'


def _check_backend(part: Part) -> Findings:
    backend = part.node.get('backend', 'nccl')
    match = closest(str(backend), BACKENDS)
    if backend not in BACKENDS and match:
        yield 'error', f'{part.path}.backend={backend!r} is not known: did you mean {match!r}?'


CHECKS: tuple[tuple[Callable[[Part], bool], Callable[[Part], Findings]], ...] = (
    (lambda part: part.path in LOADERS, _check_loader),
    (lambda part: part.path == 'train_cfg', _check_loop),
    (_is_hook, _check_best),
    (lambda part: part.key == 'optimizer', _check_lr),
    (lambda part: part.top == 'param_scheduler' and 'type' in part.node, _check_schedule),
    (lambda part: part.key in ('prior_generator', 'anchor_generator'), _check_anchors),
    (lambda part: part.path == 'model.backbone' and 'out_indices' in part.node, _check_indices),
    (_is_transform, _check_transform),
    (lambda part: part.key == 'metainfo', _check_metainfo),
    (lambda part: part.key == 'dist_cfg', _check_backend),
)
