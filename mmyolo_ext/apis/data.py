"""Point a config to a data set: ``data = 'data.yaml'``."""

import posixpath
from pathlib import Path
from typing import Any

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import LOADERS, kind, leaf_datasets
from mmyolo_ext.apis.shortcuts import apply_shortcuts
from mmyolo_ext.datasets import DataSource, find_dataset

# arguments of an innermost dataset that do not say where its data are
KEPT = ('pipeline', 'test_mode', 'filter_cfg', 'indices', 'serialize_data', 'lazy_init', 'max_refetch')

PLACES = ('data_root', 'train_ann', 'train_img', 'val_ann', 'val_img')


def set_data(cfg: Config, path: str | Path) -> DataSource:
    """Put the splits of a data set into the loaders and evaluators of a config, in place.

    Wrappers, pipelines and settings of loaders stay. Metrics follow COCO's rules for every format. Without a test
    split, the validation split is tested. The classes are those of the data, or ``class_names`` of the config.

    Args:
        cfg: The config.
        path: As of :func:`find_dataset`.

    Raises:
        ValueError: If the data cannot be read, or a loader of the config has several datasets.
    """
    source = find_dataset(path)
    splits = {**source.splits}
    if 'val' in splits:
        splits.setdefault('test', splits['val'])
    for loader in LOADERS:
        split = loader.removesuffix('_dataloader')
        if not cfg.get(loader):
            continue
        if split not in splits:
            raise ValueError(
                f'{path} has no {split} split, which {loader} needs: it has {", ".join(source.splits)}. Add '
                f'{split} to it, or split all images: mmyolo-ext convert {path} --to yolo --out FOLDER --split 0.8 0.2'
            )
        leaves = list(leaf_datasets(cfg[loader]['dataset']))
        if len(leaves) > 1:
            raise ValueError(f'data sets one dataset, {loader} has {len(leaves)}: set the data of each instead')
        kept = {key: leaves[0][key] for key in KEPT if key in leaves[0]}
        leaves[0].clear()
        leaves[0].update({**splits[split], **kept})
        if split != 'train':
            cfg[f'{split}_evaluator'] = _evaluator(cfg.get(f'{split}_evaluator'), _ground_truth(splits[split]))
    for name in PLACES:  # variables of mmdet's configs, which would be read as shortcuts
        cfg.pop(name, None)
    cfg.class_names = cfg.get('class_names') or source.class_names
    apply_shortcuts(cfg)
    return source


def _ground_truth(dataset: dict) -> dict:
    """Return the arguments by which a metric reads the ground truth of a dataset."""
    if dataset['type'] == 'mmyolo_ext.CheckedCocoDataset' and 'part' not in dataset:
        return {'ann_file': posixpath.join(dataset['data_root'], dataset['ann_file'])}
    return {'dataset': dict(dataset)}


def _evaluator(evaluator: Any, ground_truth: dict) -> Any:
    """Return an evaluator with COCO's metric alone; other settings of a COCO metric stay."""
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        return {**evaluator, 'metrics': _evaluator(evaluator['metrics'], ground_truth)}
    is_list = isinstance(evaluator, (list, tuple))
    metrics = [metric for metric in (evaluator if is_list else [evaluator]) if metric and kind(metric) == 'CocoMetric']
    replaced = ('type', 'ann_file', 'dataset')
    changed = [
        {'type': 'mmyolo_ext.CocoMetric', **ground_truth, **{k: v for k, v in metric.items() if k not in replaced}}
        for metric in metrics or [{}]
    ]
    return changed if is_list else changed[0]
