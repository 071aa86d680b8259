"""The checkpoint to publish: read, and held to its config."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm
from torch import nn

from mmyolo_ext.apis.class_names import class_names_of
from mmyolo_ext.apis.shortcuts import leaf_datasets
from mmyolo_ext.checkpoint.config_text import parse_config
from mmyolo_ext.compat.checkpoint_file import read_checkpoint
from mmyolo_ext.compat.fit_checkpoint import fit
from mmyolo_ext.registry import MODELS
from mmyolo_ext.weights import read_weights

# what decides the boxes, and in it what does not
DECIDES = ('model', 'test_dataloader')
DOES_NOT = (
    'data_root',
    'num_workers',
    'persistent_workers',
    'prefetch_factor',
    'pin_memory',
    'init_cfg',
    'pretrained',
)


class Source(NamedTuple):
    """A checkpoint: its content as read, the model with its weights, and the names of its classes."""

    content: Any
    model: nn.Module
    classes: tuple[str, ...]

    @property
    def parts(self) -> Mapping[str, Any]:
        """What the file holds by name; nothing where it is a model as a whole, as other tools write."""
        return self.content if isinstance(self.content, Mapping) else {}

    @property
    def meta(self) -> Mapping[str, Any]:
        """What MMEngine writes beside the weights."""
        return self.parts.get('meta') or {}


def read_source(cfg: Config, path: Path) -> Source:
    """A checkpoint whose every weight the config's model has, and the other way round.

    Raises:
        ValueError: it holds no weights, no names of classes, or others than the config; or it does not fit the model.
    """
    content = read_checkpoint(path)
    saved = read_weights(path)
    if not isinstance(saved, dict) or not isinstance(saved.get('state_dict'), dict) or not saved['state_dict']:
        raise ValueError(f'{path} is no checkpoint: it holds no weights by name')
    classes = _classes(saved.get('meta') or {}, path)
    model = revert_sync_batchnorm(MODELS.build(cfg.model)).eval()
    report, _ = fit(model, saved, start_anew=False)
    if not report.complete:
        raise ValueError(f'{path} is not of the model in the config: {report}. Was it trained with this config?')
    model.load_state_dict(saved['state_dict'], strict=False)
    named = class_names_of(next(leaf_datasets(cfg.test_dataloader.dataset)))
    if named is not None and named != classes:
        raise ValueError(f'{path} has the classes {classes}, the config {named}: give the config of its training')
    return Source(content, model, classes)


def changed_since(cfg: Config, meta: Mapping[str, Any]) -> list[str]:
    """Keys of the config that may change the boxes and are not as in the training; none if that is not known.

    Raises:
        ValueError: the config in the checkpoint is not plain data; nothing of it has been executed.
    """
    try:
        before = parse_config(meta['cfg']) if 'cfg' in meta else {}
    except ValueError as error:
        raise ValueError(f"meta['cfg'] of the checkpoint cannot be read: {error}") from error
    now = cfg.to_dict()
    return [path for key in DECIDES if key in before for path in _differences(before[key], now.get(key), key)]


def _classes(meta: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    told = {str(key).lower(): value for key, value in (meta.get('dataset_meta') or {}).items()}.get('classes')
    if not told:
        raise ValueError(
            f'{path} has no meta with the names of its classes, so nobody could tell what its labels are: publish the '
            "checkpoint that training wrote, or put meta=dict(dataset_meta=dict(classes=('cat', 'dog'))) into it"
        )
    return (told,) if isinstance(told, str) else tuple(told)


def _differences(before: Any, now: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        keys = [key for key in {**before, **now} if key not in DOES_NOT]
        return [found for key in keys for found in _differences(before.get(key), now.get(key), f'{path}.{key}')]
    if isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)) and len(before) == len(now):
        pairs = enumerate(zip(before, now, strict=True))
        return [found for index, pair in pairs for found in _differences(*pair, f'{path}.{index}')]
    return [] if before == now else [path]
