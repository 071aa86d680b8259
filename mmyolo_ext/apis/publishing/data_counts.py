"""Pictures and boxes of the data that a config names."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mmengine.config import Config

from mmyolo_ext.apis.shortcuts import leaf_datasets
from mmyolo_ext.registry import DATASETS

SPLITS = {'training': 'train_dataloader', 'validation': 'val_dataloader', 'test': 'test_dataloader'}


class Split(NamedTuple):
    """A data set: what it is for, its name, its pictures and the boxes of each class; None where it is not there."""

    role: str
    name: str
    pictures: int | None = None
    boxes: dict[str, int] | None = None


def count_data(cfg: Config) -> list[Split]:
    """Every data set of a config; one that serves validation and test comes once. No picture is opened."""
    roles: dict[str, list[str]] = {}
    leaves: dict[str, dict] = {}
    for role, loader in SPLITS.items():
        for leaf in leaf_datasets(cfg[loader]['dataset']) if cfg.get(loader) else ():
            key = repr({name: leaf.get(name) for name in ('type', 'data_root', 'ann_file', 'data_prefix')})
            roles.setdefault(key, []).append(role)
            leaves.setdefault(key, leaf)
    return [_count(' and '.join(roles[key]), leaf) for key, leaf in leaves.items()]


def _count(role: str, leaf: dict) -> Split:
    name = _name(leaf)
    try:
        dataset = DATASETS.build({**leaf, 'pipeline': []})
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
        names = dataset.metainfo['classes']
        labels = Counter(
            instance['bbox_label']
            for info in infos
            for instance in info.get('instances', ())
            if not instance.get('ignore_flag')
        )
    # a data set of any package, which says in its own way that the files are not here
    except Exception:
        return Split(role, name)
    return Split(role, name, len(infos), {name: labels[label] for label, name in enumerate(names)})


def _name(leaf: dict) -> str:
    """``bccd/annotations/test.json``: enough to know the data by, without the folders of a machine."""
    root, file = (str(leaf.get(key) or '') for key in ('data_root', 'ann_file'))
    parts = Path(file).parts[-2:] if Path(file).is_absolute() else (*Path(root).parts[-1:], *Path(file).parts)
    return '/'.join(part for part in parts if part != '/') or str(leaf['type'])
