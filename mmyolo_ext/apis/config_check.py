"""The checks of a config before anything is built: one line for all that is wrong with it."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from mmengine.config import Config

from mmyolo_ext.apis.config import unread_variables
from mmyolo_ext.apis.config_keys import check_keys
from mmyolo_ext.apis.config_values import check_values

MAX_ERRORS_NAMED = 3
NEEDED = {
    'train': ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'),
    'test': ('model', 'test_dataloader', 'test_cfg', 'test_evaluator'),
}


def check_config(cfg: Config, job: str) -> None:
    """Compare every key, type and number of a config with what reads it; warnings are printed.

    ``check = 'off'`` in the config skips all but what a run cannot do without.

    Args:
        cfg: A config as :func:`mmyolo_ext.apis.load_config` gives it.
        job: 'train' or 'test', what it is meant for.

    Raises:
        ValueError: Naming up to three faults, each by its path in the config, and what to write.
    """
    missing = [key for key in NEEDED[job] if cfg.get(key) is None]
    if missing:
        advice = "; begin your config with _base_ = 'a config of configs/'" if 'model' in missing else ''
        raise ValueError(f'{cfg.filename or "the config"} has no {", ".join(missing)}, which to {job} needs{advice}')
    if cfg.get('check', 'on') not in ('on', 'off'):
        raise ValueError(f"check must be 'on' or 'off', got {cfg.check!r}")
    if cfg.get('check') == 'off':
        return
    found = list(dict.fromkeys(check(cfg)))
    found += [('warning', message) for message in unread_variables(Path(cfg.filename or ''))]
    if int(os.environ.get('RANK', 0)) == 0:
        for message in (message for level, message in found if level == 'warning'):
            print(f'warning: {message}', file=sys.stderr, flush=True)
    errors = _once([message for level, message in found if level == 'error'])
    if errors:
        more = f' (and {len(errors) - MAX_ERRORS_NAMED} more)' if len(errors) > MAX_ERRORS_NAMED else ''
        raise ValueError('; '.join(errors[:MAX_ERRORS_NAMED]) + more)


def check(cfg: Config) -> Iterator[tuple[str, str]]:
    """Every fault of a config as ``('error' | 'warning', message)``."""
    yield from check_keys(cfg)
    yield from check_values(cfg)


def _once(errors: list[str]) -> list[str]:
    """Without the errors of the test split that validation has as well: most configs use one dict for both."""
    of_validation = {error for error in errors if error.startswith('val_')}
    return [e for e in errors if not (e.startswith('test_') and e.replace('test_', 'val_', 1) in of_validation)]
