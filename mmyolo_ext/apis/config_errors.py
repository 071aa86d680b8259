"""Turn errors while a config is built into one line that names the part of the config."""

import linecache
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb

from mmengine.config import Config

from mmyolo_ext.apis.config_check import check_config
from mmyolo_ext.apis.config_nodes import Part, parts
from mmyolo_ext.apis.start import check_work_dir

# Functions of MMEngine's Runner, and ours, that build
BUILDER = re.compile(r'_?(?:build|setup|set|register|check|scale)_(\w+)')


@contextmanager
def config_errors_named(cfg: Config, job: str | None = None) -> Iterator[None]:
    """Turn errors while parts of ``cfg`` are built into a ``ValueError`` that names the part.

    Errors outside of building, and those about files, pass unchanged.

    Args:
        cfg: The config.
        job: ``'train'`` or ``'test'`` while the runner is built, before the config was checked: where the checks of
            work dir and config find the cause of an error, they name it.

    Raises:
        ValueError: From the original error, whose traceback MMYOLO_EXT_DEBUG=1 shows.
    """
    try:
        yield
    except Exception as error:
        message = None if isinstance(error, OSError) else describe(error, cfg)
        if job:
            check_work_dir(cfg.work_dir)
            check_config(cfg, job)
        if message is None:
            raise
        raise ValueError(message) from error


def one_line(error: BaseException) -> str:
    """Return the message without line breaks and without the text that registries and workers put around it."""
    text = str(error) or type(error).__name__
    if 'Traceback (most recent call last)' in text:  # raised in a worker process, which sends its traceback as text
        text = re.sub(r'^[\w.]*(Error|Exception): ', '', text.strip().splitlines()[-1])
    text = re.sub(r'^(class `\w+` in [\w/.]+: )+', '', text)
    return ' '.join(text.split())


def describe(error: Exception, cfg: Config) -> str | None:
    """Return one line on an error that was raised while something was built; None for any other error."""
    place, last = None, ''
    for frame, line in walk_tb(error.__traceback__):
        name, file = frame.f_code.co_name, Path(frame.f_code.co_filename).name
        last = linecache.getline(frame.f_code.co_filename, line).strip()
        if name == 'build_from_cfg' and file == 'build_functions.py':
            built = frame.f_locals.get('cfg')
            part = _locate(built, cfg) if isinstance(built, dict) else None
            place = part.path if part else place or built['type']
        elif file == 'runner.py' and (step := BUILDER.fullmatch(name)):  # MMEngine's or ours
            if place and step[1] == 'dataloader':
                place = f'{place.split("_")[0]}_dataloader'
            elif place is None or step[1] in cfg:
                place = step[1]
    if isinstance(error, KeyError) and ' registry' in str(error):
        place = place or 'runner_type'
    if place is None:
        return None
    text = one_line(error) if str(error) else last  # an assertion without a message
    if isinstance(error, ValueError):
        return f'{place}: {text}'
    return f'{place}: cannot be built: {type(error).__name__}: {text} (MMYOLO_EXT_DEBUG=1 shows the traceback)'


def _locate(built: dict, cfg: Config) -> Part | None:
    """Return the part of the config that MMEngine builds: that of its type with most of its arguments.

    MMEngine builds copies, to which other parts may have added arguments.
    """
    candidates = [part for part in parts(cfg) if part.node.get('type') == built.get('type')]
    return max(candidates, key=lambda part: _common(part.node, built), default=None)


def _common(node: dict, built: dict) -> int:
    return sum(key in built and repr(value) == repr(built[key]) for key, value in node.items())
