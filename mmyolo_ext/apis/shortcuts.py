"""Shortcuts: one line in a user's config for settings that stand in many places of it.

=================  ====================================================================================================
``class_names``    names of the classes: metainfo of every dataset, ``num_classes`` of the heads
``data_root``      folder of the data: every dataset, ``ann_file`` of the metrics
``train_ann``      annotation file of the training split, relative to ``data_root``; ``train_img`` its image folder
``val_ann``        the same of the validation split (and of the test split if it is the same); ``val_img``
``input_size``     px, one side of a square or (height, width): every resizing transform, the head, test-time views
``max_epochs``     length of the training: loop and schedules; close-mosaic and validation are kept within it
``batch_size``     images per batch of every dataloader
``patience``       epochs without a better score after which the training stops
``logger``         one or several of ``'tensorboard', 'wandb', 'mlflow', 'clearml'``, which get the numbers of the log
=================  ====================================================================================================
"""

import posixpath
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from functools import partial

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import LOADERS, kind, leaf_datasets, walk

# Epochs in the first tenth of a training are a warm-up, whose length does not follow the training's.
WARMUP_SHARE = 10
SWITCHES = ('CloseMosaicHook',)
# ClearML would also patch torch and matplotlib, send all checkpoints, and write over the task before
CLEARML = {'auto_connect_frameworks': False, 'reuse_last_task_id': False}
TRACKERS = {
    'tensorboard': {'type': 'TensorboardVisBackend'},
    'wandb': {'type': 'WandbVisBackend'},
    'mlflow': {'type': 'MLflowVisBackend'},
    'clearml': {'type': 'ClearMLVisBackend', 'artifact_suffix': ('.py',), 'init_kwargs': CLEARML},
}
# arguments that are the input's (height, width), as ours are
HEIGHT_WIDTH = {
    **dict.fromkeys(('Mosaic', 'RandomAffine', 'MosaicAffine', 'CachedDataset', 'RectBatchDataset'), 'size'),
    'Letterbox': 'size_hw',
}
# and those of mmdet and mmcv, which write (width, height)
WIDTH_HEIGHT = {
    **dict.fromkeys(('Mosaic', 'CachedMosaic', 'MixUp', 'CachedMixUp'), 'img_scale'),
    'RandomCrop': 'crop_size',
    'Pad': 'size',
    'Resize': 'scale',
}
# the size at the end of a training pipeline, whatever it resizes to before
FINAL_SIZES = ('crop_size', 'img_scale', 'size')


def apply_shortcuts(cfg: Config) -> None:
    """Apply the shortcuts of ``cfg`` in place, and remove them from it.

    Raises:
        ValueError: If a shortcut has an invalid value, or no place in this config.
    """
    annotations = [
        [(dataset.get('data_root'), dataset.get('ann_file')) for dataset in _datasets(cfg, [loader])]
        for loader in ('val_dataloader', 'test_dataloader')
    ]
    val_loaders = ('val_dataloader', 'test_dataloader')[: 1 + (annotations[0] == annotations[1])]
    values = {name: cfg.pop(name) for name in SHORTCUTS if cfg.get(name) is not None}
    for name, value in values.items():
        SHORTCUTS[name](cfg, value, val_loaders)
    if {'data_root', 'val_ann'} & set(values):
        for split in ('val', 'test'):
            for dataset in _datasets(cfg, [f'{split}_dataloader']):
                path = posixpath.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
                for metric in walk(cfg.get(f'{split}_evaluator')):
                    if 'ann_file' in metric:
                        metric['ann_file'] = path


def _datasets(cfg: Config, loaders: Sequence[str]) -> Iterator[dict]:
    for loader in loaders:
        if cfg.get(loader):
            yield from leaf_datasets(cfg[loader]['dataset'])


def _set_class_names(cfg: Config, names: str | list | tuple, val_loaders: Sequence[str]) -> None:
    names = (names,) if isinstance(names, str) else names
    are_texts = isinstance(names, (list, tuple)) and all(name and isinstance(name, str) for name in names)
    if not are_texts or not names or len(set(names)) < len(names):
        raise ValueError(f"class_names must be a list of distinct names such as ('cat', 'dog'), got {names!r}")
    names = tuple(names)
    for dataset in _datasets(cfg, LOADERS):
        dataset['metainfo'] = {'classes': names}
    for metric in walk([cfg.get('val_evaluator'), cfg.get('test_evaluator')]):
        if 'dataset' in metric:
            metric['dataset']['metainfo'] = {'classes': names}
    roi_head = cfg.model.get('roi_head') or {}  # a proposal head has no classes, a cascade has several heads
    for heads in (cfg.model.get('bbox_head'), roi_head.get('bbox_head'), roi_head.get('mask_head')):
        for head in heads if isinstance(heads, (list, tuple)) else [heads] if heads else []:
            head['num_classes'] = len(names)
    # variables that the config has used already: keep them true in the dump
    if 'num_classes' in cfg:
        cfg.num_classes = len(names)
    if 'metainfo' in cfg:
        cfg.metainfo = {'classes': names}


def _set_dataset(
    cfg: Config, value: str, val_loaders: Sequence[str], key: str, split: str = '', name: str = 'data_root'
) -> None:
    if not isinstance(value, str):
        raise ValueError(f'{name} must be a path, got {value!r}')
    loaders = {'train': ['train_dataloader'], 'val': val_loaders}.get(split, LOADERS)
    for dataset in _datasets(cfg, loaders):
        dataset[key] = {'img': value} if key == 'data_prefix' else value


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{name} must be a whole number of at least 1, got {value!r}')


def _set_batch_size(cfg: Config, size: int, val_loaders: Sequence[str]) -> None:
    _check_count('batch_size', size)
    for loader in LOADERS:
        if cfg.get(loader):
            cfg[loader]['batch_size'] = size


def _set_logger(cfg: Config, names: str | list | tuple, val_loaders: Sequence[str]) -> None:
    chosen = [names] if isinstance(names, str) else names
    if not isinstance(chosen, (list, tuple)) or not all(isinstance(name, str) and name in TRACKERS for name in chosen):
        raise ValueError(f'logger must be one or several of {", ".join(TRACKERS)}, got {names!r}')
    if not cfg.get('visualizer'):
        raise ValueError('logger cannot be applied: the config has no visualizer')
    backends = cfg.visualizer.get('vis_backends') or []
    backends = [backends] if isinstance(backends, dict) else list(backends)
    present = {backend.get('name') for backend in backends}
    for name in dict.fromkeys(chosen):
        if name not in present:
            guarded = {'type': 'mmyolo_ext.GuardedVisBackend', 'name': name, 'backend': deepcopy(TRACKERS[name])}
            backends.append(guarded)
    cfg.visualizer['vis_backends'] = backends


# max_epochs


def _set_max_epochs(cfg: Config, epochs: int, val_loaders: Sequence[str]) -> None:
    """Set the length of the training.

    Epochs of schedules and hooks keep their share of the training; warm-ups keep their length, within its first half.
    A schedule that becomes empty is removed.
    """
    _check_count('max_epochs', epochs)
    if not cfg.get('train_cfg'):
        raise ValueError('max_epochs cannot be applied: the config has no train_cfg')
    _check_count('train_cfg.val_interval', cfg.train_cfg.get('val_interval', 1))
    before = cfg.train_cfg.get('max_epochs')
    cfg.train_cfg['max_epochs'] = epochs
    cfg.train_cfg['val_interval'] = min(cfg.train_cfg.get('val_interval', 1), epochs)
    if before:
        _move_epochs(cfg, before, epochs)
    for node in walk([cfg.get('custom_hooks'), cfg.get('default_hooks')]):
        if kind(node) in SWITCHES:
            node['num_last_epochs'] = min(node.get('num_last_epochs', 10), epochs // 3)


def _move_epochs(cfg: Config, before: int, epochs: int) -> None:
    def moved(epoch: int) -> int:
        if epoch >= before:
            return epochs if epoch == before else epoch
        warmup = min(before // WARMUP_SHARE, epochs // 2)
        return min(epoch, warmup) if epoch <= before // WARMUP_SHARE else max(epoch * epochs // before, warmup)

    intervals = cfg.train_cfg.get('dynamic_intervals')
    if intervals:
        cfg.train_cfg['dynamic_intervals'] = [(moved(epoch), every) for epoch, every in intervals]
    schedules = cfg.get('param_scheduler')
    if isinstance(schedules, (list, tuple)):
        for schedule in schedules:
            _move_schedule(schedule, moved)
        cfg.param_scheduler = [s for s in schedules if s.get('end') is None or s.get('begin', 0) < s['end']]
    elif schedules:
        _move_schedule(schedules, moved)
    for hook in walk([cfg.get('custom_hooks'), cfg.get('default_hooks')]):
        if 'switch_epoch' in hook:
            hook['switch_epoch'] = moved(hook['switch_epoch'])
        if 'num_last_epochs' in hook and kind(hook) not in SWITCHES:
            hook['num_last_epochs'] = epochs - moved(max(before - hook['num_last_epochs'], 0))


def _move_schedule(schedule: dict, moved: Callable[[int], int]) -> None:
    if not schedule.get('by_epoch', True):
        return
    begin, end = schedule.get('begin', 0), schedule.get('end')
    if end is not None and end <= begin:
        raise ValueError(f'param_scheduler: end must be after begin, got {schedule}')
    if 'T_max' in schedule:
        length = (moved(end) - moved(begin)) / (end - begin) if end else moved(schedule['T_max']) / schedule['T_max']
        schedule['T_max'] = max(round(schedule['T_max'] * length), 1)
    if 'milestones' in schedule:
        schedule['milestones'] = sorted({moved(epoch) for epoch in schedule['milestones']})
    for key in ('begin', 'end'):
        if key in schedule:
            schedule[key] = moved(schedule[key])


# patience


def set_patience(cfg: Config, epochs: int) -> None:
    """Stop the training when the score of ``save_best`` has not improved for so many epochs.

    ``EarlyStoppingHook`` counts validations: their number is rounded up.
    """
    _check_count('patience', epochs)
    hooks = cfg.setdefault('default_hooks', {})
    best = (hooks.get('checkpoint') or {}).get('save_best')
    hooks['early_stopping'] = {
        'type': 'mmyolo_ext.EarlyStoppingHook',
        'monitor': best if isinstance(best, str) and best != 'auto' else 'coco/bbox_mAP',
        'rule': 'greater',
        'min_delta': 0.001,
        'patience': -(-epochs // cfg.train_cfg.get('val_interval', 1)),
    }


# input_size


def _set_input_size(cfg: Config, size: int | list | tuple, val_loaders: Sequence[str]) -> None:
    """Set every size to ``size`` px; ranges of sizes (scale jitter, batches) keep their ratio to the input."""
    size_hw = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    strides = (cfg.model.get('bbox_head') or {}).get('prior_generator', {}).get('strides') or [32]
    stride = max(max(s) if isinstance(s, (list, tuple)) else s for s in strides)
    if len(size_hw) != 2 or not all(isinstance(side, int) and side > 0 and side % stride == 0 for side in size_hw):
        raise ValueError(f'input_size must be one or two multiples of {stride}, the largest stride, got {size!r}')
    views = cfg.pop('tta_pipeline', None)
    old_test_hw = resized_hw(cfg, 'val_dataloader')
    old_hw = _final_train_hw(cfg) or old_test_hw
    for node in walk(cfg._cfg_dict):
        _set_node(node, size_hw, old_hw)
    head = cfg.model.get('bbox_head')
    if isinstance(head, dict) and (kind(head) in ('YOLOv5Head', 'YOLOv3Head') or 'input_size' in head):
        head['input_size'] = size_hw[0] if size_hw[0] == size_hw[1] else size_hw
    if views is not None:
        for node in walk(views) if old_test_hw else ():
            name = kind(node)
            key = 'size_hw' if name == 'Letterbox' else WIDTH_HEIGHT.get(name)
            if name in ('Letterbox', 'Resize', 'Pad') and _is_pixels(node.get(key)):
                order = 1 if name == 'Letterbox' else -1
                sides = zip(node[key], size_hw[::order], old_test_hw[::order], strict=True)
                node[key] = tuple(max(round(side * new / old / stride), 1) * stride for side, new, old in sides)
        cfg.tta_pipeline = views
    if 'img_scale' in cfg:  # a variable that the config has used already
        cfg.img_scale = size_hw[::-1]


def _set_node(node: dict, size_hw: tuple[int, int], old_hw: tuple[int, int] | None) -> None:
    name, height, width = kind(node), *size_hw
    ours, theirs = HEIGHT_WIDTH.get(name), WIDTH_HEIGHT.get(name)
    if ours in node:
        node[ours] = size_hw
    elif str(node.get('type')).startswith('mmyolo_ext.') and name != 'Resize':  # has scale as mmdet's
        return
    elif theirs == 'img_scale' or _is_pixels(node.get(theirs)):
        node[theirs] = (width, height)
    elif name == 'RandomAffine' and any(node.get('border') or ()):
        node['border'] = (-width // 2, -height // 2)  # crops half of a mosaic's double canvas on each side
    elif name in ('RandomResize', 'RandomChoiceResize', 'BatchSyncRandomResize') and old_hw:
        _set_range(node, name, (width / old_hw[1], height / old_hw[0]))


def _set_range(node: dict, name: str, ratio_wh: tuple[float, float]) -> None:
    def scaled(scale: list | tuple, divisor: int = 1) -> tuple:
        sides = zip(scale, ratio_wh, strict=True)
        return tuple(max(round(side * ratio / divisor), 1) * divisor for side, ratio in sides)

    if name == 'BatchSyncRandomResize':
        node['random_size_range'] = scaled(node['random_size_range'], node['size_divisor'])
    elif name == 'RandomChoiceResize':
        node['scales'] = [scaled(scale) for scale in node['scales']]
    elif _is_pixels(node.get('scale')):
        node['scale'] = scaled(node['scale'])
    elif node.get('scale'):
        node['scale'] = [scaled(scale) for scale in node['scale']]


def _is_pixels(value: object) -> bool:
    """Return whether a size is given in px, neither as fractions of the image nor omitted."""
    return isinstance(value, (list, tuple)) and all(isinstance(side, int) for side in value)


def _final_train_hw(cfg: Config) -> tuple[int, int] | None:
    """Return the size of training images at the end of the pipeline."""
    for node in walk(cfg.get('train_dataloader')):
        for argument in FINAL_SIZES:
            if _is_pixels(node.get(argument)):
                theirs = WIDTH_HEIGHT.get(kind(node)) == argument
                return tuple(node[argument][::-1] if theirs else node[argument])
    return resized_hw(cfg, 'train_dataloader')


def resized_hw(cfg: Config, loader: str) -> tuple[int, int] | None:
    """Return the size that a letterbox or a resize gives."""
    for node in walk(cfg.get(loader)):
        if kind(node) == 'Letterbox':
            size = node['size_hw']
            return (size, size) if isinstance(size, int) else tuple(size)
        if kind(node) == 'Resize' and _is_pixels(node.get('scale')):
            return tuple(node['scale'][::-1])
    return None


SHORTCUTS: dict[str, Callable[[Config, object, Sequence[str]], None]] = {
    'class_names': _set_class_names,
    'data_root': partial(_set_dataset, key='data_root'),
    'train_ann': partial(_set_dataset, key='ann_file', split='train', name='train_ann'),
    'train_img': partial(_set_dataset, key='data_prefix', split='train', name='train_img'),
    'val_ann': partial(_set_dataset, key='ann_file', split='val', name='val_ann'),
    'val_img': partial(_set_dataset, key='data_prefix', split='val', name='val_img'),
    'input_size': _set_input_size,
    'max_epochs': _set_max_epochs,
    'batch_size': _set_batch_size,
    'logger': _set_logger,
}
