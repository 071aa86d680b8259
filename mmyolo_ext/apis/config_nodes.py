"""Walk through the dicts of a config."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from mmengine.config import Config

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
CLOSE = 0.8  # of difflib's ratio: 'train_dataloder' has 0.97, 'train_pipeline' to 'train_dataloader' 0.67
# What a runner reads of a config; other top-level keys are variables of the author's.
READ_KEYS = (
    *('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg'),
    *('optim_wrapper', 'param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks', 'custom_hooks'),
    *('env_cfg', 'randomness', 'auto_scale_lr', 'visualizer', 'log_processor', 'tta_model', 'tta_pipeline'),
    *('custom_imports', 'step_guard', 'compile_parts'),
)
FOREIGN_TRANSFORMS = ('Albu', 'Albumentations')  # what is below them are names of another library


def walk(node: object) -> Iterator[dict]:
    """Yield every dict in nested dicts and lists, outer ones first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)


def nodes(node: Any, path: str) -> Iterator[tuple[str, dict]]:
    """Yield the dicts below a node with their paths."""
    children = {}
    if isinstance(node, dict):
        yield path, node
        children = node
    elif isinstance(node, (list, tuple)):
        children = dict(enumerate(node))
    for key, value in children.items():
        yield from nodes(value, f'{path}.{key}')


def get_path(cfg: Config, path: str) -> Any:
    """Return what stands at a dotted path of a config; None if there is nothing."""
    node: Any = cfg
    for part in path.split('.'):
        if isinstance(node, (list, tuple)) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        elif isinstance(node, (dict, Config)):
            node = node.get(part)
        else:
            return None
    return node


def leaf_datasets(node: dict) -> Iterator[dict]:
    """Yield the configs of the innermost datasets of a loader or a wrapper."""
    inner = [node['dataset']] if 'dataset' in node else node.get('datasets', [])
    for part in inner:
        yield from leaf_datasets(part)
    if not inner:
        yield node


def kind(node: dict) -> str:
    """Return the name of a type without its scope; empty if there is none."""
    name = node.get('type', '')
    return name.rsplit('.', 1)[-1] if isinstance(name, str) else getattr(name, '__name__', '')


@dataclass(frozen=True)
class Part:
    """A dict somewhere in a config.

    Args:
        cfg: The whole config.
        path: Its place, such as ``train_dataloader.dataset.pipeline[2]``.
        keys: The keys of the path, without positions in lists.
        node: The dict.
    """

    cfg: Config
    path: str
    keys: tuple[str, ...]
    node: dict

    @property
    def top(self) -> str:
        return self.keys[0]

    @property
    def key(self) -> str:
        return self.keys[-1]

    @property
    def parent(self) -> str:
        return self.keys[-2] if len(self.keys) > 1 else ''


def parts(cfg: Config) -> Iterator[Part]:
    """Yield every dict that a run reads, outer ones first, without the variables of the author."""
    for key in READ_KEYS:
        if key in cfg:
            yield from _parts(cfg, cfg[key], key, (key,))


def _parts(cfg: Config, node: object, path: str, keys: tuple[str, ...]) -> Iterator[Part]:
    if isinstance(node, dict):
        yield Part(cfg, path, keys, node)
        if kind(node) not in FOREIGN_TRANSFORMS:
            for key, value in list(node.items()):
                yield from _parts(cfg, value, f'{path}.{key}', (*keys, str(key)))
    elif isinstance(node, (list, tuple)):
        for index, value in enumerate(node):
            yield from _parts(cfg, value, f'{path}[{index}]', keys)


def closest(key: str, known: Iterable[str]) -> str | None:
    """Return the name that ``key`` was probably meant to be, ignoring case and underscores; None if none is close."""
    plain = {_plain(name): str(name) for name in known}
    match = get_close_matches(_plain(key), plain, n=1, cutoff=CLOSE)
    return plain[match[0]] if match else None


def _plain(name: object) -> str:
    return str(name).lower().replace('_', '').replace('-', '')
