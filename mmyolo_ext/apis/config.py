"""Read a config as the tools read it."""

import argparse
import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml
from mmengine.config import Config, DictAction
from mmengine.fileio import load
from mmengine.runner import Runner

import mmyolo_ext  # supplies mmcv's ops before a config imports mmdet
from mmyolo_ext.apis.config_nodes import (
    LOADERS,
    closest,
    get_path,
)
from mmyolo_ext.apis.data import set_data
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.apis.recipe import set_recipe
from mmyolo_ext.apis.shortcuts import SHORTCUTS, apply_shortcuts, set_patience
from mmyolo_ext.apis.tiled import set_tiles
from mmyolo_ext.checkpoint.config_text import parse_config
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.engine.stopping import StopTraining

SUFFIXES = ('.py', '.yaml', '.yml', '.json')
CHECKPOINTS = ('.pth', '.pt')
TRUSTED = ('mmyolo_ext', 'mmdet')  # packages that the config in a checkpoint may import
TYPES: dict[str, type] = {
    **dict.fromkeys(('model', *LOADERS, 'train_cfg', 'val_cfg', 'test_cfg', 'optim_wrapper', 'default_hooks'), dict),
    **dict.fromkeys(('env_cfg', 'randomness', 'step_guard', 'auto_scale_lr'), dict),
    **dict.fromkeys(('work_dir', 'load_from'), str),
    'resume': bool,
}
HOOKS_OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
# Variables that are usual in configs. A runner does not read them: a child that assigns one must use it itself.
VARIABLES = (
    *('train_pipeline', 'val_pipeline', 'test_pipeline', 'dataset_type', 'backend_args', 'train_dataset', 'classes'),
    *('val_dataset', 'test_dataset', 'inference_pipeline', 'input_shape', 'img_scale', 'num_classes', 'max_iters'),
)
KNOWN_KEYS = (
    *inspect.signature(Runner).parameters,
    *('custom_imports', 'runner_type', 'model_wrapper_cfg', 'sync_bn', 'find_unused_parameters', 'compile', 'check'),
    *('activation_checkpointing', 'efficient_conv_bn_eval', 'tta_model', 'tta_pipeline', 'vis_backends', 'fp16'),
    *('gpu_ids', 'strategy', 'memory_format', 'compile_parts', 'step_guard', 'metainfo'),
    *VARIABLES,
    *SHORTCUTS,
    *('data', 'recipe', 'patience', 'chosen_recipe', 'overridden', 'tile'),
)
# Names that other trainers give to our settings
FOREIGN_KEYS = (
    *('train_batch_size_per_gpu', 'val_batch_size_per_gpu', 'train_num_workers', 'val_num_workers', 'anchors'),
    *('train_data_prefix', 'val_ann_file', 'val_data_prefix', 'save_checkpoint_intervals', 'save_epoch_intervals'),
    *('lr_factor', 'loss_cls_weight', 'loss_bbox_weight', 'loss_obj_weight', 'prior_match_thr', 'obj_level_weights'),
    *('model_test_cfg', 'batch_shapes_cfg', 'max_keep_ckpts', 'deepen_factor', 'widen_factor', 'strides'),
    *('learning_rate', 'lr', 'lr0', 'base_lr', 'epochs', 'num_epochs', 'total_epochs', 'batch', 'bs', 'imgsz', 'nc'),
    *('train_batch_size', 'samples_per_gpu', 'img_size', 'image_size', 'names', 'labels', 'workers', 'num_workers'),
    *(
        'workers_per_gpu',
        'momentum',
        'weight_decay',
        'optimizer',
        'optimizer_config',
        'lr_config',
        'scheduler',
        'seed',
    ),
    *('pretrained', 'weights', 'checkpoint', 'resume_from', 'dataset', 'train', 'val', 'total_iters'),
    *('amp', 'evaluation', 'checkpoint_config', 'log_config', 'device', 'gpus', 'save_dir', 'project'),
)
# folders of our configs
FAMILIES = ('_base_', 'yolov5', 'yolov5_rtmdet', 'yolov3', 'light', 'mixed', 'quickstart')


class OptionsAction(DictAction):
    """``--cfg-options KEY=VALUE ...``; anything else ends the program with one line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option: str | None = None,
    ) -> None:
        for value in values:
            if not value.partition('=')[1]:
                parser.error(f'{option} takes settings as KEY=VALUE, got {value!r}')
        super().__call__(parser, namespace, values, option)


def load_config(path: str | Path, cfg_options: dict | None = None, with_recipe: bool = True) -> Config:
    """Read a config file, merge options into it, apply the shortcuts of :mod:`.shortcuts`, and choose the recipe.

    Shortcuts are applied before other options, so that ``batch_size=8 val_dataloader.batch_size=1`` works as written.
    ``recipe='auto'``, the default of configs with ``data``, chooses settings by the training data, except those that
    the file or the options make; see :mod:`.recipe`. The config lists what these two set as ``overridden``.

    Args:
        path: A Python, YAML or JSON config of MMEngine; its ``_base_`` may be ``mmdet::...``. Or the name of a ready
            model, or a checkpoint, whose config is parsed and never executed.
        cfg_options: Dotted keys and values, as ``--cfg-options`` gives them.
        with_recipe: Whether to choose the recipe; False for tools that do not train and need no training data.

    Raises:
        ValueError: The file is missing or broken, a key of it or of the options is misspelt, or a shortcut cannot be
            applied.
    """
    path, options = Path(path), dict(cfg_options or {})
    if not path.is_file():
        if path.suffix in CHECKPOINTS:
            raise ValueError(f'there is no checkpoint {path}')
        path = config_path(str(path))
    saved = path.suffix in CHECKPOINTS
    if path.suffix not in SUFFIXES and not saved:
        raise ValueError(f'{path} is not a config: its name must end in one of {", ".join(SUFFIXES)}')
    files = [] if saved else list(config_files(path))
    for file, names in files:
        for key in names:
            if key in FOREIGN_KEYS:
                raise ValueError(
                    f'{key!r} in {file} is read by nothing: docs/coming_from/ lists the keys to use instead'
                )
            if key not in KNOWN_KEYS:
                _refuse_if_close(key, KNOWN_KEYS, f'a top-level key of a config ({file})')
    try:
        cfg = saved_config(path) if saved else Config.fromfile(path)
    except StopTraining:
        raise
    except (Exception, SystemExit) as error:  # a config is the user's code, which may raise anything
        # of a failed import, MMEngine's own message lists sys.path
        reason = isinstance(error, ImportError) and error.__context__ or error
        raise ValueError(f'{path} cannot be read: {type(reason).__name__}: {reason}') from error
    if options:
        _check_options(cfg, options)
    given = set(options)
    own = set().union(*(explicit_settings(file) for file, _ in files if not is_shipped(file)))
    settings = {one['path']: one['value'] for one in cfg.get('overridden') or ()}  # of the config of a run
    if not saved and not settings and '_base_' in path.read_text(encoding='utf-8'):
        settings = {name: get_path(cfg, name) for name in own}
    settings = deepcopy({**settings, **options})
    for name in (*SHORTCUTS, 'data', 'recipe', 'patience', 'tile'):
        if name in options:
            cfg[name] = options.pop(name)
    recipe = cfg.pop('recipe', 'auto' if cfg.get('data') else None)
    patience, batch_size = cfg.pop('patience', None), cfg.get('batch_size')
    if recipe not in ('auto', None):
        raise ValueError(f"recipe must be 'auto' or None, got {recipe!r}")
    if batch_size == 'auto':
        cfg.pop('batch_size')
    _finish(cfg)
    _merge(cfg, options)
    if with_recipe and recipe:
        keep = given | own
        measured = {'batch_size', 'train_dataloader.batch_size'} if batch_size == 'auto' else set()
        set_recipe(cfg, keep=keep - measured)
        _merge(cfg, options)
    if with_recipe and batch_size == 'auto':
        from mmyolo_ext.apis.batch_size import set_batch_size

        set_batch_size(cfg)
    if with_recipe and patience is not None:
        set_patience(cfg, patience)
    if settings:
        cfg.overridden = [
            {'path': name, 'value': value} for name, value in sorted(settings.items()) if value is not None
        ]
    return cfg


def saved_config(checkpoint: str | Path) -> Config:
    """Return the config that a checkpoint of a training holds; its text is parsed and never executed.

    Raises:
        ValueError: If there is none, or it imports modules other than those of this package and mmdet.
    """
    content = read_checkpoint(checkpoint)
    text = (content.get('meta') or {}).get('cfg') if isinstance(content, dict) else None
    if not text:
        raise ValueError('the checkpoint holds no config: give the config file too')
    values = parse_config(text)
    imports = (values.get('custom_imports') or {}).get('imports') or ()
    imports = [imports] if isinstance(imports, str) else imports
    others = [name for name in imports if name.split('.')[0] not in TRUSTED]
    if others:
        raise ValueError(f'its config imports {", ".join(others)}: give the config file, which may import modules')
    return Config({**values, 'work_dir': None})


def _merge(cfg: Config, options: dict) -> None:
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError) as error:
            raise ValueError(f'--cfg-options do not fit the config: {error}') from error
        _finish(cfg)


def is_shipped(path: Path) -> bool:
    """Return whether a config is one of a package, whose settings are not those of a user."""
    if '.mim' in path.parts:
        return True
    package = Path(mmyolo_ext.__file__).parent
    return any(path.resolve().is_relative_to(package.parent.resolve() / 'configs' / family) for family in FAMILIES)


def _finish(cfg: Config) -> None:
    """Check types, remove hooks that are None, apply shortcuts."""
    for key, kind in TYPES.items():
        optional = key not in ('env_cfg', 'randomness')
        if key in cfg and not isinstance(cfg[key], kind) and not (cfg[key] is None and optional):
            raise ValueError(f'{key} must be a {kind.__name__}, got {cfg[key]!r}')
    for key in ('param_scheduler', 'custom_hooks'):
        entries = cfg.get(key) or []
        is_list = isinstance(entries, (list, tuple)) and all(isinstance(entry, dict) for entry in entries)
        if not is_list and not isinstance(entries, dict):
            raise ValueError(f'{key} must be a list of dicts, got {entries!r}')
    hooks = cfg.get('default_hooks') or {}
    for name, hook in list(hooks.items()):
        if hook is None and name not in HOOKS_OF_MMENGINE:  # of its own, MMEngine leaves out those that are None
            del hooks[name]
    try:
        if cfg.get('data') is not None:
            set_data(cfg, cfg.pop('data'))
        if any(cfg.get(name) is not None for name in SHORTCUTS):
            apply_shortcuts(cfg)
        if cfg.get('tile') is not None:
            set_tiles(cfg, cfg.pop('tile'))
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f'the shortcuts meet a setting of another type than usual: {error!r}') from error


def config_files(path: Path, above: tuple[Path, ...] = ()) -> Iterator[tuple[Path, list[str]]]:
    """Yield a config and its bases, each with the names that it assigns at the top and neither it nor a child reads.

    Configs in packages (``mmdet::...``) and files that cannot be read, which MMEngine names, are left out.

    Raises:
        ValueError: If configs are based on each other in a circle.
    """
    if path.resolve() in above:
        circle = (*above[above.index(path.resolve()) :], path)
        raise ValueError(f'the configs are based on each other in a circle: {" -> ".join(f.name for f in circle)}')
    try:
        text = path.read_text(encoding='utf-8')
        if path.suffix == '.py':
            names, bases = _assigned(text)
        else:
            content = load(path)
            bases = content.pop('_base_', [])
            names, bases = list(map(str, content)), [bases] if isinstance(bases, str) else bases
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError, yaml.YAMLError):
        return
    yield path, names
    for base in bases:
        for file, unread in config_files(path.parent / base, (*above, path.resolve())):
            yield file, [name for name in unread if f'_base_.{name}' not in text]


def _assigned(text: str) -> tuple[list[str], list[str]]:
    """Return the names that a Python config assigns at the top and does not read, and the paths of its bases."""
    tree = ast.parse(text)
    names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    read = {node.id for node in names if not isinstance(node.ctx, ast.Store)}
    assigned = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    base = assigned.pop('_base_', ast.Pass())
    bases = [node.value for node in ast.walk(base) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    unread = [name for name in assigned if name not in read and not name.startswith('__')]
    return unread, bases


def unread_variables(path: Path) -> Iterator[str]:
    """Yield a warning for each variable that a config with a ``_base_`` assigns and nothing reads.

    A base has read its own variables before the child assigns another value, so the assignment changes nothing.
    """
    files = list(config_files(path))
    for name in files[0][1] if path.suffix == '.py' and len(files) > 1 else ():
        if name not in KNOWN_KEYS or name in VARIABLES:
            yield (
                f'{name!r} in {path} is read by nothing: a base uses its variables before this file changes them, '
                'and unknown settings have no effect'
            )


def explicit_settings(path: Path) -> set[str]:
    """Return the dotted paths of the settings that a user's config file makes, without those of its bases.

    ``train_cfg = dict(max_epochs=5)`` gives ``train_cfg.max_epochs``; a dict with ``_delete_``, a list or a variable
    is one setting.
    """
    if path.suffix != '.py':
        found = set(_leaves({key: value for key, value in load(path).items() if key != '_base_'}))
    else:
        found = set()
        for statement in ast.parse(path.read_text(encoding='utf-8')).body:
            for target in statement.targets if isinstance(statement, ast.Assign) else ():
                # _base_.train_cfg.max_epochs or train_cfg['max_epochs']
                start = re.sub(r"\['?(\w+)'?\]", r'.\1', ast.unparse(target))
                if start != '_base_' and re.fullmatch(r'\w+(\.\w+)*', start):
                    found |= set(_leaves(statement.value, start.removeprefix('_base_.')))
    return found


def _leaves(node: Any, path: str = '') -> Iterator[str]:
    """Yield the paths of the leaves of a dict, or of the syntax tree of one."""
    children = None
    if isinstance(node, dict):
        children = node
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == 'dict' and not node.args:
        children = {word.arg: word.value for word in node.keywords}
    elif isinstance(node, ast.Dict):
        children = {getattr(key, 'value', None): value for key, value in zip(node.keys, node.values, strict=True)}
    if not children or '_delete_' in children or not all(isinstance(key, str) for key in children):
        yield path
        return
    for key, value in children.items():
        yield from _leaves(value, f'{path}.{key}' if path else key)


def _check_options(cfg: Config, options: Iterable[str]) -> None:
    """Refuse dotted options such as ``train_cfg.max_epoch`` that would add a key next to the one that is meant."""
    for option in options:
        first, *rest = option.split('.')
        if first not in cfg and first not in KNOWN_KEYS:
            _refuse_if_close(first, (*cfg.keys(), *KNOWN_KEYS), 'a top-level key of a config')
            raise ValueError(f'--cfg-options {option}: the config has no key {first!r}, so nothing would read it')
        node = cfg.get(first)
        for part in rest:
            if isinstance(node, (list, tuple)):
                node = node[int(part)] if part.isdigit() and int(part) < len(node) else None
            elif isinstance(node, dict):
                if part not in node:
                    _refuse_if_close(part, node.keys(), f'a key for --cfg-options {option}')
                node = node.get(part)


def _refuse_if_close(key: str, known: Iterable[str], what: str) -> None:
    match = closest(key, known)
    if match:
        raise ValueError(f'{key!r} is not {what}: did you mean {match!r}?')
