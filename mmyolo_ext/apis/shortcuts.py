"""One line in a user's config for what stands in many places of it.

=================  ====================================================================================================
``class_names``    names of the classes: metainfo of every data set, ``num_classes`` of the heads
``data_root``      folder of the data: every data set, ``ann_file`` of the metrics
``train_ann``      annotation file of the training split, under ``data_root``; ``train_img`` its folder of pictures
``val_ann``        the same of the validation split (and of the test split where that is the same); ``val_img``
``input_size``     px, one side of a square or (height, width): every resizing transform, the head, test-time views
``max_epochs``     length of the training: loop, schedules; close-mosaic and validation are kept within it
``batch_size``     pictures a batch, of every loader
=================  ====================================================================================================
"""

import posixpath
from collections.abc import Callable, Iterator

from mmengine.config import Config

from mmyolo_ext.apis.class_names import class_names_fault
from mmyolo_ext.apis.config_nodes import kind, leaf_datasets, walk
from mmyolo_ext.apis.shortcut_epochs import set_max_epochs
from mmyolo_ext.apis.shortcut_size import set_input_size

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def apply_shortcuts(cfg: Config) -> None:
    """Carry out the shortcuts that ``cfg`` holds, in place, and take them out of it.

    Raises:
        ValueError: If a shortcut has a value it cannot have, or nowhere to go in this config.
    """
    test_is_val = _annotations(cfg, 'test_dataloader') == _annotations(cfg, 'val_dataloader')
    values = {name: cfg.pop(name) for name in SHORTCUTS if cfg.get(name) is not None}
    for name, value in values.items():
        SHORTCUTS[name](cfg, value, test_is_val)
    if {'data_root', 'val_ann'} & set(values):
        _point_metrics_at_their_data(cfg)
    fit_rect_batches(cfg)


def fit_rect_batches(cfg: Config, world_size: int = 1) -> None:
    """Rectangles of validation are shared by the pictures that are in a batch together, over all ranks."""
    for loader in (cfg.get(name) for name in LOADERS if cfg.get(name)):
        for node in walk(loader):
            if kind(node) == 'RectBatchDataset' and loader.get('batch_size'):
                node['batch_size'] = loader['batch_size'] * world_size


def _set_class_names(cfg: Config, names: str | list | tuple, test_is_val: bool) -> None:
    if isinstance(names, str) and (',' in names or names.endswith(('.txt', '.names', '.yaml'))):
        raise ValueError(f"class_names must be a list of names such as ('cat', 'dog'), got the text {names!r}")
    if not isinstance(names, (str, list, tuple)):
        raise ValueError(f"class_names must be a list of names such as ('cat', 'dog'), got {names!r}")
    names = (names,) if isinstance(names, str) else tuple(names)
    fault = class_names_fault(names)
    if fault:
        raise ValueError(f"class_names must be distinct names such as ('cat', 'dog'): {fault}")
    for dataset in _datasets(cfg, LOADERS):
        dataset['metainfo'] = {'classes': names}
    for head in _class_heads(cfg.model):
        head['num_classes'] = len(names)
    # variables that the config has used already: keep them true in the dump
    if 'num_classes' in cfg:
        cfg.num_classes = len(names)
    if 'metainfo' in cfg:
        cfg.metainfo = {'classes': names}


def _class_heads(model: dict) -> Iterator[dict]:
    """The heads that tell classes; those of a cascade one by one. A proposal head tells objects from none."""
    roi_head = model.get('roi_head') or {}
    for part in (model.get('bbox_head'), roi_head.get('bbox_head'), roi_head.get('mask_head')):
        yield from part if isinstance(part, (list, tuple)) else [part] if part else []


def _set_data_root(cfg: Config, root: str, test_is_val: bool) -> None:
    _check_text('data_root', root)
    for dataset in _datasets(cfg, LOADERS):
        dataset['data_root'] = root


def _dataset_setter(loader: str, key: str) -> Callable[[Config, str, bool], None]:
    def set_it(cfg: Config, value: str, test_is_val: bool) -> None:
        _check_text({'ann_file': 'train_ann and val_ann', 'data_prefix': 'train_img and val_img'}[key], value)
        loaders = (loader, 'test_dataloader') if loader == 'val_dataloader' and test_is_val else (loader,)
        for dataset in _datasets(cfg, loaders):
            dataset[key] = {'img': value} if key == 'data_prefix' else value

    return set_it


def _set_input_size(cfg: Config, size: int | list | tuple, test_is_val: bool) -> None:
    set_input_size(cfg, size)


def _set_max_epochs(cfg: Config, epochs: int, test_is_val: bool) -> None:
    _check_count('max_epochs', epochs)
    if not cfg.get('train_cfg'):
        raise ValueError('max_epochs has nowhere to go: the config has no train_cfg')
    _check_count('train_cfg.val_interval', cfg.train_cfg.get('val_interval', 1))
    set_max_epochs(cfg, epochs)


def _set_batch_size(cfg: Config, size: int, test_is_val: bool) -> None:
    _check_count('batch_size', size)
    for loader in LOADERS:
        if cfg.get(loader):
            cfg[loader]['batch_size'] = size


SHORTCUTS: dict[str, Callable[[Config, object, bool], None]] = {
    'class_names': _set_class_names,
    'data_root': _set_data_root,
    'train_ann': _dataset_setter('train_dataloader', 'ann_file'),
    'train_img': _dataset_setter('train_dataloader', 'data_prefix'),
    'val_ann': _dataset_setter('val_dataloader', 'ann_file'),
    'val_img': _dataset_setter('val_dataloader', 'data_prefix'),
    'input_size': _set_input_size,
    'max_epochs': _set_max_epochs,
    'batch_size': _set_batch_size,
}


def _point_metrics_at_their_data(cfg: Config) -> None:
    for split in ('val', 'test'):
        for dataset in _datasets(cfg, (f'{split}_dataloader',)):
            path = posixpath.join(dataset.get('data_root') or '', dataset.get('ann_file') or '')
            for metric in walk(cfg.get(f'{split}_evaluator')):
                if 'ann_file' in metric:
                    metric['ann_file'] = path


def _datasets(cfg: Config, loaders: tuple[str, ...]) -> Iterator[dict]:
    for loader in loaders:
        if cfg.get(loader):
            yield from leaf_datasets(cfg[loader]['dataset'])


def _annotations(cfg: Config, loader: str) -> list:
    return [(d.get('data_root'), d.get('ann_file')) for d in _datasets(cfg, (loader,))]


def _check_count(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f'{name} must be a whole number of at least 1, got {value!r}')


def _check_text(name: str, value: object) -> None:
    if not isinstance(value, str):
        raise ValueError(f'{name} must be a path, got {value!r}')
