"""Check a config for what would be accepted silently, or end in an error deep inside another library."""

import math
import numbers
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from mmyolo_ext.apis.config import unread_variables
from mmyolo_ext.apis.config_keys import check_keys, has_our_head
from mmyolo_ext.apis.config_nodes import LOADERS, Part, kind, parts, walk

MAX_ERRORS_NAMED = 3
NEEDED = {
    'train': ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    'test': ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'),
}
HOOKS = ('default_hooks', 'custom_hooks')
NMS_TYPES = ('nms', 'soft_nms', 'nms_match')
# Transforms that do not pack, which a pipeline must not end with; transforms of other names might.
NOT_PACKING = (
    *('LoadImage', 'LoadImageFromFile', 'LoadAnnotations', 'Resize', 'RandomFlip', 'HorizontalFlip', 'Pad', 'MixUp'),
    *('Letterbox', 'RandomAffine', 'Mosaic', 'MosaicAffine', 'HSVJitter', 'RandomCrop', 'Normalize'),
)
TINY = 1e-9
# (top-level keys, arguments that mean the same wherever they stand below, lowest and highest value, whole numbers,
# other values); of lists, each number is checked
NUMBERS = (
    (('model',), 'num_classes pad_size_divisor', 1, math.inf, True, ()),
    (('model',), 'frozen_stages', -1, math.inf, True, (None,)),
    (('model',), 'max_per_img nms_pre', 1, math.inf, True, (-1,)),
    (('model',), 'widen_factor deepen_factor', 1e-3, 100, False, ()),
    (('model',), 'std base_sizes strides scales ratios', TINY, math.inf, False, (None,)),
    (('model',), 'loss_weight', 0, math.inf, False, ()),
    (('model',), 'iou_threshold score_thr', 0, 1, False, (None,)),
    (LOADERS, 'batch_size', 1, math.inf, True, ()),
    (LOADERS, 'num_workers', 0, math.inf, True, ()),
    (('train_cfg',), 'max_epochs max_iters val_interval', 1, math.inf, True, (None,)),
    (('optim_wrapper',), 'lr weight_decay', 0, math.inf, False, ()),
    (('optim_wrapper',), 'momentum betas', 0, 1, False, ()),
    (('optim_wrapper',), 'max_norm', TINY, math.inf, False, ()),
    (('optim_wrapper',), 'accumulative_counts', 1, math.inf, True, ()),
    (('param_scheduler',), 'T_max gamma warmup_epochs start_factor end_factor final_factor', 0, math.inf, False, ()),
    (('param_scheduler',), 'warmup_iters min_warmup_iters milestones', 0, math.inf, True, ()),
    (('log_processor',), 'window_size', 1, math.inf, True, ()),
    (('randomness',), 'seed', 0, 2**32 - 1, True, (None,)),
    (HOOKS, 'interval max_keep_ckpts', 1, math.inf, True, (-1,)),
    (HOOKS, 'nominal_batch_size', 1, math.inf, True, ()),
    (HOOKS, 'num_last_epochs', 0, math.inf, True, ()),
)
LIMITS = {(top, name): limits for tops, names, *limits in NUMBERS for top in tops for name in names.split()}


def check_config(cfg: Config, job: str) -> None:
    """Compare keys, types and numbers of a config with what reads them; print warnings.

    ``check = 'off'`` in the config skips all but the sections that a run needs.

    Args:
        cfg: A config read by :func:`mmyolo_ext.apis.load_config`.
        job: 'train' or 'test'.

    Raises:
        ValueError: Naming up to three faults, each by its path in the config, and what to write instead.
    """
    missing = [key for key in NEEDED[job] if cfg.get(key) is None]
    if missing:
        raise ValueError(
            f'{cfg.filename or "the config"} has no {", ".join(missing)}, which to {job} needs; '
            "begin your config with _base_ = 'a config of configs/'"
        )
    if cfg.get('check', 'on') not in ('on', 'off'):
        raise ValueError(f"check must be 'on' or 'off', got {cfg.check!r}")
    if cfg.get('check') == 'off':
        return
    if int(os.environ.get('RANK', 0)) == 0:
        for message in unread_variables(Path(cfg.filename or '')):
            print(f'warning: {message}', file=sys.stderr, flush=True)
    errors = list(dict.fromkeys(check(cfg)))
    # most configs use one dict for validation and test: name its errors once
    errors = [e for e in errors if not (e.startswith('test_') and e.replace('test_', 'val_', 1) in errors)]
    if errors:
        more = f' (and {len(errors) - MAX_ERRORS_NAMED} more)' if len(errors) > MAX_ERRORS_NAMED else ''
        raise ValueError('; '.join(errors[:MAX_ERRORS_NAMED]) + more)


def check(cfg: Config) -> Iterator[str]:
    """Yield a message for each fault of a config."""
    yield from check_keys(cfg)
    for part in parts(cfg):
        for key, value in part.node.items():
            if (part.top, key) in LIMITS:
                yield from _check_numbers(f'{part.path}.{key}', value, *LIMITS[part.top, key])
        if part.path == 'train_cfg' and any(every < 1 for _, every in part.node.get('dynamic_intervals') or ()):
            yield 'train_cfg.dynamic_intervals must be pairs (epoch, interval) with intervals of at least 1'
        elif part.top in LOADERS:
            yield from _check_data(part)
        elif part.top == 'model':
            yield from _check_nms(part)
            yield from _check_anchors(part)


def _check_numbers(path: str, value: object, low: float, high: float, whole: bool, others: tuple) -> Iterator[str]:
    if isinstance(value, (list, tuple)):
        for child in value:
            yield from _check_numbers(path, child, low, high, whole, others)
        return
    is_number = isinstance(value, numbers.Integral if whole else numbers.Real) and not isinstance(value, bool)
    if value not in others and not (is_number and math.isfinite(value) and low <= value <= high):
        limits = 'above 0' if low == TINY else f'of at least {low}'
        limits += f' and at most {high}' if high < math.inf else ''
        also = ''.join(f', or {other}' for other in others if other is not None)
        yield f'{path} must be a {"whole " if whole else ""}number {limits}{also}, got {value!r}'


def _check_data(part: Part) -> Iterator[str]:
    for key in ('dataset', 'sampler') if part.path in LOADERS else ():
        if not isinstance(part.node.get(key, {}), dict):
            yield f'{part.path}.{key} must be a dict with a type, got {part.node[key]!r}'
    pipelines = [node['pipeline'] for node in walk(part.node) if isinstance(node.get('pipeline'), list)]
    last = pipelines[0][-1] if pipelines and pipelines[0] else None
    if part.path in LOADERS and isinstance(last, dict) and kind(last) in NOT_PACKING:
        yield f'{part.path}: the pipeline must end with PackDetInputs, got {kind(last)}'
    classes = part.node.get('classes', ()) if part.key == 'metainfo' else ()
    if not isinstance(classes, (str, list, tuple)) or not all(isinstance(name, str) for name in classes):
        yield f'{part.path}.classes must be texts, got {classes!r}'
    if part.node.get('pipeline') == [] and 'dataset' not in part.node:
        yield f'{part.path}.pipeline is empty: it must load images and end with PackDetInputs'


def _check_nms(part: Part) -> Iterator[str]:
    """Check what is first used after an epoch, in the validation."""
    nms = part.node.get('nms', {})
    if part.path == 'model.test_cfg' and has_our_head(part.cfg) and not isinstance(nms, dict):
        yield f"{part.path}.nms must be a dict such as dict(type='nms', iou_threshold=0.65), got {nms!r}"
    elif isinstance(nms, dict) and nms.get('type', 'nms') not in NMS_TYPES and not callable(nms['type']):
        yield f'{part.path}.nms.type must be one of {", ".join(NMS_TYPES)}, got {nms["type"]!r}'


def _check_anchors(part: Part) -> Iterator[str]:
    sizes, strides = part.node.get('base_sizes'), part.node.get('strides')
    if not isinstance(sizes, (list, tuple)) or not isinstance(strides, (list, tuple)):
        return
    if len(sizes) != len(strides):
        yield f'{part.path} has base_sizes for {len(sizes)} levels, but {len(strides)} strides {tuple(strides)}'
    elif len({len(level) if isinstance(level, (list, tuple)) else 1 for level in sizes}) > 1:
        yield f'{part.path}.base_sizes must have as many anchors on every level, got {sizes!r}'
