"""Config keys that nobody will read because a letter is wrong."""

import ast
import functools
import inspect
import re
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path

import yaml
from mmengine.config import Config
from mmengine.fileio import load
from mmengine.runner import Runner

from mmyolo_ext.apis.shortcuts import SHORTCUTS

CLOSE = 0.8  # of difflib's ratio: 'train_dataloder' has 0.97, 'train_pipeline' to 'train_dataloader' 0.67
# Read by Runner from its cfg, by mmdet's tools, or usual as variables of mmdet's own configs.
OTHER_KEYS = (
    *('custom_imports', 'runner_type', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'compile'),
    *('activation_checkpointing', 'efficient_conv_bn_eval', 'tta_model', 'tta_pipeline', 'vis_backends', 'fp16'),
    *('train_pipeline', 'val_pipeline', 'test_pipeline', 'dataset_type', 'backend_args', 'gpu_ids', 'strategy'),
    *('train_dataset', 'val_dataset', 'test_dataset', 'input_shape', 'max_iters', 'num_classes', 'classes'),
    *('check', 'memory_format', 'compile_parts', 'step_guard'),
)
KNOWN_KEYS = tuple(dict.fromkeys((*inspect.signature(Runner).parameters, *OTHER_KEYS, *SHORTCUTS)))
# Of these, a runner reads nothing: they have a meaning only where the file itself uses them.
VARIABLES = (
    *('train_pipeline', 'val_pipeline', 'test_pipeline', 'dataset_type', 'backend_args', 'train_dataset'),
    *('val_dataset', 'test_dataset', 'input_shape', 'num_classes', 'classes', 'max_iters'),
)
# What other tools call the settings of ours.
FOREIGN_KEYS = {
    **dict.fromkeys(('learning_rate', 'lr', 'lr0', 'base_lr', 'initial_lr'), 'optim_wrapper.optimizer.lr'),
    **dict.fromkeys(('epochs', 'num_epochs', 'n_epochs', 'total_epochs', 'nepochs'), 'max_epochs'),
    **dict.fromkeys(('batch', 'bs', 'train_batch_size', 'samples_per_gpu', 'batchsize'), 'batch_size'),
    **dict.fromkeys(('imgsz', 'img_size', 'image_size', 'img_scale', 'imgsize', 'resolution'), 'input_size'),
    **dict.fromkeys(('names', 'class_list', 'labels', 'categories', 'nc'), 'class_names'),
    **dict.fromkeys(('workers', 'num_workers', 'workers_per_gpu'), 'train_dataloader.num_workers'),
    **dict.fromkeys(('momentum',), 'optim_wrapper.optimizer.momentum'),
    **dict.fromkeys(('weight_decay', 'wd'), 'optim_wrapper.optimizer.weight_decay'),
    **dict.fromkeys(('optimizer', 'optimizer_config'), 'optim_wrapper.optimizer'),
    **dict.fromkeys(('lr_config', 'scheduler', 'lr_scheduler'), 'param_scheduler'),
    **dict.fromkeys(('seed', 'random_seed'), 'randomness.seed'),
    **dict.fromkeys(('pretrained', 'weights', 'checkpoint'), 'load_from'),
    **dict.fromkeys(('resume_from',), 'load_from with resume=True'),
    **dict.fromkeys(('data', 'dataset', 'train', 'val'), 'data_root, train_ann and val_ann'),
    **dict.fromkeys(('runner', 'total_iters'), 'train_cfg'),
    **dict.fromkeys(('evaluation',), 'val_evaluator and train_cfg.val_interval'),
    **dict.fromkeys(('checkpoint_config',), 'default_hooks.checkpoint'),
    **dict.fromkeys(('log_config',), 'default_hooks.logger'),
    **dict.fromkeys(('amp', 'fp16'), 'optim_wrapper.type or the option --amp'),
    **dict.fromkeys(('device', 'gpus', 'gpu_ids', 'gpu'), 'the environment variable CUDA_VISIBLE_DEVICES'),
    **dict.fromkeys(('save_dir', 'output_dir', 'project', 'out_dir'), 'work_dir'),
    **dict.fromkeys(('patience',), 'the hook EarlyStoppingHook'),
    **dict.fromkeys(('val_interval', 'eval_interval'), 'train_cfg.val_interval'),
}


def check_file(path: str | Path) -> None:
    """Refuse top-level keys that have no meaning but were meant to have one, in a config and those under it.

    These are names that are nearly, but not quite, ones that are read, and what other tools call the same settings.
    A name that the same file uses again is a variable of its author's and passes; so do configs inside packages
    (``mmdet::...``).

    Raises:
        ValueError: Naming the file, the key and what it probably was meant to be; or configs that are based on each
            other in a circle.
    """
    for file, key in _unused_names(Path(path)):
        if key in FOREIGN_KEYS:
            raise ValueError(f'{key!r} in {file} is read by nothing: set {FOREIGN_KEYS[key]} instead')
        if key not in KNOWN_KEYS:
            _refuse_if_close(key, KNOWN_KEYS, f'a top-level key of a config ({file})')


def unread_variables(path: str | Path) -> Iterator[str]:
    """A warning for each variable that a config with a ``_base_`` assigns and nothing reads.

    A base has read its own variables before the child assigns another value, so that changes nothing.
    """
    path = Path(path)
    if path.suffix != '.py' or not _assigned(path)[1]:
        return
    for file, key in _unused_names(path):
        if file == path and (key not in KNOWN_KEYS or key in VARIABLES):
            yield (
                f'{key!r} in {path} is read by nothing: a variable of a base is used there before this file changes '
                'it, and a setting of another name does nothing'
            )


def check_bases(path: str | Path, above: tuple[Path, ...] = ()) -> None:
    """Refuse configs that are based on each other in a circle, which MMEngine follows without an end.

    Raises:
        ValueError: Naming the files.
    """
    path = Path(path).resolve()
    if path in above:
        circle = ' -> '.join(file.name for file in (*above[above.index(path) :], path))
        raise ValueError(f'the configs are based on each other in a circle: {circle}')
    for base in _bases(path):
        check_bases(base, (*above, path))


def check_options(cfg: Config, options: Iterable[str]) -> None:
    """Refuse dotted options such as ``train_cfg.max_epoch`` that would add a key beside the one that is meant.

    Raises:
        ValueError: As :func:`check_file`, at any depth; also for a top-level key that does not exist at all.
    """
    for option in options:
        first, *rest = option.split('.')
        if first not in cfg and first not in KNOWN_KEYS:
            _refuse_if_close(first, (*cfg.keys(), *KNOWN_KEYS), 'a top-level key of a config')
            instead = f': set {FOREIGN_KEYS[first]} instead' if first in FOREIGN_KEYS else ''
            raise ValueError(
                f'--cfg-options {option}: the config has no key {first!r}, so nothing would read it{instead}'
            )
        node = cfg.get(first)
        for part in rest:
            if isinstance(node, dict) and part not in node:
                _refuse_if_close(part, node.keys(), f'a key for --cfg-options {option}')
            node = _step(node, part)


def _unused_names(path: Path) -> Iterator[tuple[Path, str]]:
    """(file, name) of what is assigned at the top of a config and of its bases, and not read there."""
    if not path.is_file():
        return
    read_by_child = set()
    if path.suffix == '.py':
        read_by_child = set(re.findall(r'_base_\.(\w+)', path.read_text(encoding='utf-8')))
    yield from ((path, name) for name in _assigned(path)[0] if not name.startswith('__'))
    for base in _bases(path):
        yield from ((file, name) for file, name in _unused_names(base) if name not in read_by_child)


def _bases(path: Path) -> list[Path]:
    """The files that a config is based on, without those in packages."""
    return [path.parent / base for base in _assigned(path)[1] if '::' not in base]


@functools.lru_cache(maxsize=256)
def _parsed(path: Path, changed: int) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if path.suffix in ('.yaml', '.yml', '.json'):
        content = load(path)
        content = content if isinstance(content, dict) else {}
        bases = content.pop('_base_', [])
        return tuple(map(str, content)), tuple([bases] if isinstance(bases, str) else bases)
    tree = ast.parse(path.read_text(encoding='utf-8'))
    used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Store)}
    assigned = {
        name.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        for name in ast.walk(target)
        if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)
    }
    base = assigned.pop('_base_', None)
    constants = [node.value for node in ast.walk(base) if isinstance(node, ast.Constant)] if base is not None else []
    return tuple(name for name in assigned if name not in used), tuple(c for c in constants if isinstance(c, str))


def _assigned(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(names that a config assigns at the top and does not read, its bases as written); empty if it cannot be read."""
    try:
        return _parsed(path, path.stat().st_mtime_ns)
    except (OSError, SyntaxError, ValueError, yaml.YAMLError):  # reading the config tells what is wrong
        return (), ()


def _step(node: object, part: str) -> object:
    if isinstance(node, (list, tuple)):
        return node[int(part)] if part.isdigit() and int(part) < len(node) else None
    return node.get(part) if isinstance(node, dict) else None


def closest(key: str, known: Iterable[str]) -> str | None:
    """The name that ``key`` was probably meant to be, whatever the case and the underscores; None if none is near."""
    plain = {_plain(name): str(name) for name in known}
    match = get_close_matches(_plain(key), plain, n=1, cutoff=CLOSE)
    return plain[match[0]] if match else None


def _plain(name: object) -> str:
    return str(name).lower().replace('_', '').replace('-', '')


def _refuse_if_close(key: str, known: Iterable[str], what: str) -> None:
    match = closest(key, known)
    if match:
        raise ValueError(f'{key!r} is not {what}: did you mean {match!r}?')
