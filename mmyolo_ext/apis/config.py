"""Read a config as our tools read it."""

from pathlib import Path

from mmengine.config import Config

import mmyolo_ext  # noqa: F401  (supplies mmcv's ops before a config imports mmdet)
from mmyolo_ext.apis.shortcuts import SHORTCUTS, apply_shortcuts
from mmyolo_ext.apis.spelling import check_file, check_options


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
    check_options(cfg, options)
    for name in SHORTCUTS:
        if name in options:
            cfg[name] = options.pop(name)
    apply_shortcuts(cfg)
    if options:
        cfg.merge_from_dict(options)
        apply_shortcuts(cfg)
    return cfg


def _read(path: str | Path) -> Config:
    path = str(path)
    if not Path(path).is_file():
        raise ValueError(f'there is no config {path}{_neighbours(Path(path))}')
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        raise ValueError(f'{path}: a file it is based on is missing: {error}') from error
    except Exception as error:  # a config is code of the user's: whatever it raises, the file must be named
        raise ValueError(f'{path} cannot be read: {type(error).__name__}: {error}') from error


def _neighbours(path: Path) -> str:
    there = sorted(file.name for file in path.parent.glob(f'*{path.suffix or ".py"}')) if path.parent.is_dir() else []
    return f'; in {path.parent} there are {", ".join(there)}' if there else ''
