"""Read a config as our tools read it."""

import argparse
from pathlib import Path

from mmengine.config import Config, DictAction
from mmengine.fileio import load

import mmyolo_ext  # noqa: F401  (supplies mmcv's ops before a config imports mmdet)
from mmyolo_ext.apis.shortcuts import SHORTCUTS, apply_shortcuts
from mmyolo_ext.apis.spelling import check_bases, check_file, check_options
from mmyolo_ext.engine.stopping import StopTraining

SUFFIXES = ('.py', '.yaml', '.yml', '.json')
SECTIONS = (
    *('model', 'train_dataloader', 'val_dataloader', 'test_dataloader', 'train_cfg', 'val_cfg', 'test_cfg'),
    *('optim_wrapper', 'default_hooks', 'env_cfg', 'randomness'),
)
HOOKS_OF_MMENGINE = ('runtime_info', 'timer', 'sampler_seed', 'logger', 'param_scheduler', 'checkpoint')
NEVER_NONE = ('env_cfg', 'randomness')
DATA_DESCRIPTION = {'train', 'val', 'nc', 'path'}  # keys of a data.yaml, as YOLO tools write it


class FormattedOnce(Config):
    """A config that is not formatted again as long as its settings stay the same.

    MMEngine asks for its text for the log, for the copy beside the log and for every checkpoint, and yapf takes a
    third of a second to format it: as long as a step of a small network.
    """

    @classmethod
    def of(cls, cfg: Config) -> 'FormattedOnce':
        """The same config; settings are shared."""
        formatted = cls.__new__(cls)
        formatted.__dict__.update(cfg.__dict__)
        return formatted

    @property
    def pretty_text(self) -> str:
        settings, text = self.__dict__.get('_formatted', (None, None))
        if settings != repr(self._cfg_dict):
            text = super().pretty_text
            self.__dict__['_formatted'] = repr(self._cfg_dict), text  # past __setattr__, which would make it a setting
        return text


class OptionsAction(DictAction):
    """``--cfg-options KEY=VALUE ...``; anything else ends the program with one line."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: list[str],
        option: str | None = None,
    ) -> None:
        wrong = [value for value in values if not value.partition('=')[0].strip() or '=' not in value]
        if wrong:
            parser.error(f'{option} takes settings as KEY=VALUE, got {wrong[0]!r}')
        super().__call__(parser, namespace, values, option)


def load_config(path: str | Path, cfg_options: dict | None = None) -> Config:
    """Read a config file, take over the options, and carry out the shortcuts of :mod:`.shortcuts`.

    Shortcuts come before other options, so ``batch_size=8 val_dataloader.batch_size=1`` means what it says.

    Args:
        path: A Python, YAML or JSON config of MMEngine; its ``_base_`` may be ``mmdet::...``.
        cfg_options: Dotted keys and values, as ``--cfg-options`` gives them.

    Raises:
        ValueError: If the file is missing or broken, if a key of it or of the options is misspelt, or if a shortcut
            cannot be carried out.
    """
    options = dict(cfg_options or {})
    cfg = FormattedOnce.of(_read(path))
    check_file(path)
    _check_sections(cfg)
    check_options(cfg, options)
    for name in SHORTCUTS:
        if name in options:
            cfg[name] = options.pop(name)
    apply_shortcuts(cfg)
    _leave_out_hooks(cfg)
    if options:
        try:
            cfg.merge_from_dict(options)
        except (KeyError, TypeError, IndexError) as error:
            reason = error.args[0] if error.args else error
            raise ValueError(f'--cfg-options do not fit the config: {reason}') from error
        _check_sections(cfg)
        apply_shortcuts(cfg)
        _leave_out_hooks(cfg)
    return cfg


def _leave_out_hooks(cfg: Config) -> None:
    """``default_hooks = dict(NAME=None)`` leaves a hook out; MMEngine allows that only of those it adds itself."""
    hooks = cfg.get('default_hooks') or {}
    for name in [name for name, hook in hooks.items() if hook is None and name not in HOOKS_OF_MMENGINE]:
        del hooks[name]


def _check_sections(cfg: Config) -> None:
    """What shortcuts and checks walk through must be made of dicts and lists."""
    for key in SECTIONS:
        if key in cfg and not isinstance(cfg[key], dict) and (cfg[key] is not None or key in NEVER_NONE):
            raise ValueError(f'{key} must be a dict, got {cfg[key]!r}')
    for key in ('param_scheduler', 'custom_hooks'):
        entries = cfg.get(key) or []
        for entry in entries if isinstance(entries, (list, tuple)) else [entries]:
            if not isinstance(entry, dict):
                raise ValueError(f'{key} must be a list of dicts with a type, got {entry!r}')
    if isinstance(cfg.get('custom_hooks'), dict):
        raise ValueError(f'custom_hooks must be a list of dicts, got {dict(cfg.custom_hooks)}')
    for key in ('work_dir', 'load_from'):
        if not isinstance(cfg.get(key), (str, type(None))):
            raise ValueError(f'{key} must be a path, got {cfg[key]!r}')


def _read(path: str | Path) -> Config:
    path = str(path)
    if Path(path).is_dir():
        raise ValueError(f'{path} is a folder, not a config{_neighbours(Path(path) / "x.py")}')
    if not Path(path).is_file():
        raise ValueError(f'there is no config {path}{_neighbours(Path(path))}')
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(f'{path} is not a config: its name must end in one of {", ".join(SUFFIXES)}')
    check_bases(path)
    _refuse_data_file(path)
    try:
        cfg = Config.fromfile(path)
    except FileNotFoundError as error:
        raise ValueError(f'{path}: a file it is based on is missing: {error}') from error
    except ImportError as error:
        reason = error.__context__ or error  # MMEngine's own message lists sys.path
        raise ValueError(f'{path} imports what cannot be imported: {reason}; see its custom_imports') from error
    except StopTraining:
        raise
    except (Exception, SystemExit) as error:  # a config is code of the user's: whatever it raises is to name the file
        raise ValueError(f'{path} cannot be read: {type(error).__name__}: {error}') from error
    return cfg


def _refuse_data_file(path: str) -> None:
    """A description of a data set, or its annotations, is not a config, though it may be YAML or JSON too."""
    if path.endswith('.py'):
        return
    try:
        content = load(path)
    except Exception:  # reading the config tells what is wrong
        return
    if not isinstance(content, dict):
        raise ValueError(
            f'{path} is not a config: it holds {"nothing" if content is None else type(content).__name__}'
        )
    write = 'write a config with _base_ = a file of configs/,'
    if 'model' not in content and 'names' in content and DATA_DESCRIPTION & set(content):
        raise ValueError(
            f'{path} describes a data set, it is not a config: {write} class_names = {_names(content["names"])}, '
            'data_root, train_ann, train_img, val_ann and val_img'
        )
    if 'model' not in content and {'images', 'annotations'} <= set(content):
        raise ValueError(f'{path} holds annotations, it is not a config: {write} and train_ann = {path!r}')


def _names(names: object) -> tuple:
    """The class names of a ``data.yaml``, which are a list or a dict by number."""
    return tuple(names.values() if isinstance(names, dict) else names if isinstance(names, (list, tuple)) else ())


def _neighbours(path: Path) -> str:
    there = sorted(file.name for file in path.parent.glob(f'*{path.suffix or ".py"}')) if path.parent.is_dir() else []
    return f'; in {path.parent} there are {", ".join(there)}' if there else ''
