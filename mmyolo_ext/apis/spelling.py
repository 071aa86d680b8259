"""Config keys that nobody will read because a letter is wrong."""

import ast
import inspect
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

from mmengine.config import Config
from mmengine.runner import Runner

from mmyolo_ext.apis.shortcuts import SHORTCUTS

CLOSE = 0.8  # of difflib's ratio: 'train_dataloder' has 0.97, 'train_pipeline' to 'train_dataloader' 0.67
# Read by Runner from its cfg, by mmdet's tools, or usual as variables of mmdet's own configs.
OTHER_KEYS = (
    *('custom_imports', 'runner_type', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'compile'),
    *('activation_checkpointing', 'efficient_conv_bn_eval', 'tta_model', 'tta_pipeline', 'vis_backends', 'fp16'),
    *('train_pipeline', 'val_pipeline', 'test_pipeline', 'dataset_type', 'backend_args', 'gpu_ids', 'strategy'),
    *('train_dataset', 'val_dataset', 'test_dataset', 'input_shape', 'max_iters', 'num_classes', 'classes'),
    'check',
)
KNOWN_KEYS = tuple(dict.fromkeys((*inspect.signature(Runner).parameters, *OTHER_KEYS, *SHORTCUTS)))


def check_file(path: str | Path) -> None:
    """Refuse top-level keys that are nearly, but not quite, ones that have a meaning, in a config and those under it.

    A name that the same file uses again is a variable of its author's and passes; so do configs inside packages
    (``mmdet::...``).

    Raises:
        ValueError: Naming the file, the key and what it probably was meant to be.
    """
    for file, key in _unused_names(Path(path)):
        if key not in KNOWN_KEYS:
            _refuse_if_close(key, KNOWN_KEYS, f'a top-level key of a config ({file})')


def check_options(cfg: Config, options: Iterable[str]) -> None:
    """Refuse dotted options such as ``train_cfg.max_epoch`` that would add a key beside the one that is meant.

    Raises:
        ValueError: As :func:`check_file`, at any depth; also for a top-level key that does not exist at all.
    """
    for option in options:
        first, *rest = option.split('.')
        if first not in cfg and first not in KNOWN_KEYS:
            _refuse_if_close(first, (*cfg.keys(), *KNOWN_KEYS), 'a top-level key of a config')
            raise ValueError(f'--cfg-options {option}: the config has no key {first!r}, so nothing would read it')
        node = cfg.get(first)
        for part in rest:
            if isinstance(node, dict) and part not in node:
                _refuse_if_close(part, node.keys(), f'a key for --cfg-options {option}')
            node = _step(node, part)


def _unused_names(path: Path) -> Iterator[tuple[Path, str]]:
    """(file, name) of what is assigned at the top of a Python config and of its bases, and not read there."""
    if path.suffix != '.py' or not path.is_file():
        return
    tree = ast.parse(path.read_text(encoding='utf-8'))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    assigned = {
        name.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name)
    }
    base = assigned.pop('_base_', None)
    yield from ((path, name) for name in assigned if name not in used and not name.startswith('__'))
    for constant in ast.walk(base) if base is not None else ():
        if isinstance(constant, ast.Constant) and isinstance(constant.value, str) and '::' not in constant.value:
            yield from _unused_names(path.parent / constant.value)


def _step(node: object, part: str) -> object:
    if isinstance(node, (list, tuple)):
        return node[int(part)] if part.isdigit() and int(part) < len(node) else None
    return node.get(part) if isinstance(node, dict) else None


def _refuse_if_close(key: str, known: Iterable[str], what: str) -> None:
    match = get_close_matches(key, [str(k) for k in known], n=1, cutoff=CLOSE)
    if match:
        raise ValueError(f'{key!r} is not {what}: did you mean {match[0]!r}?')
