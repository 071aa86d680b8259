"""The dicts in a config: found, and told apart by their types."""

from collections.abc import Iterator
from dataclasses import dataclass

from mmengine.config import Config

# What a runner reads of a config; other top-level keys are variables of the author's.
READ_KEYS = (
    *('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg'),
    *('optim_wrapper', 'param_scheduler', 'val_evaluator', 'test_evaluator', 'default_hooks', 'custom_hooks'),
    *('env_cfg', 'randomness', 'auto_scale_lr', 'visualizer', 'log_processor', 'tta_model', 'tta_pipeline'),
    *('custom_imports', 'step_guard', 'compile_parts'),
)
FOREIGN_TRANSFORMS = ('Albu', 'Albumentations')  # what is below them are names of another library


def walk(node: object) -> Iterator[dict]:
    """Every dict in nested dicts and lists, outer ones first."""
    if isinstance(node, dict):
        yield node
        for value in list(node.values()):
            yield from walk(value)
    elif isinstance(node, (list, tuple)):
        for value in node:
            yield from walk(value)


def leaf_datasets(node: dict) -> Iterator[dict]:
    """The configs of the innermost data sets of a loader or a wrapper."""
    inner = [node['dataset']] if 'dataset' in node else node.get('datasets', [])
    for part in inner:
        yield from leaf_datasets(part)
    if not inner:
        yield node


def kind(node: dict) -> str:
    """The name of a type without its scope; empty if there is none."""
    name = node.get('type', '')
    return name.rsplit('.', 1)[-1] if isinstance(name, str) else getattr(name, '__name__', '')


@dataclass(frozen=True)
class Part:
    """A dict somewhere in a config.

    Args:
        cfg: The whole config.
        path: Where it is, as ``train_dataloader.dataset.pipeline[2]``.
        keys: The keys on the way, without positions in lists.
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
    """Every dict that a run reads, outer ones first: variables of the author's at the top are left out."""
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
