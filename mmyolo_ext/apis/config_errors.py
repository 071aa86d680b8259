"""Turn errors while a config is built into one line that names the part of the config."""

import linecache
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from mmengine import registry as root
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import DefaultScope

from mmyolo_ext.apis.config_check import check_config
from mmyolo_ext.apis.config_keys import accepted, unknown_key, unknown_type
from mmyolo_ext.apis.config_nodes import Part, kind, parts
from mmyolo_ext.apis.start import check_work_dir

# Functions of MMEngine's Runner that build, and the key of a config that each reads.
RUNNER_STEPS = {
    'setup_env': 'env_cfg',
    'set_randomness': 'randomness',
    'build_logger': 'log_level',
    'build_visualizer': 'visualizer',
    'build_model': 'model',
    'build_evaluator': 'the evaluators',
    'build_optim_wrapper': 'optim_wrapper',
    'build_param_scheduler': 'param_scheduler',
    '_build_param_scheduler': 'param_scheduler',
    '_check_scheduler_cfg': 'param_scheduler',
    'scale_lr': 'auto_scale_lr',
    'build_train_loop': 'train_cfg',
    'build_val_loop': 'val_cfg',
    'build_test_loop': 'test_cfg',
    'build_log_processor': 'log_processor',
    'register_hook': 'the hooks',
    'register_default_hooks': 'default_hooks',
    'register_custom_hooks': 'custom_hooks',
}
LOADERS = {'train_cfg': 'train_dataloader', 'val_cfg': 'val_dataloader', 'test_cfg': 'test_dataloader'}
# Of these, an error names a file already, and its reader knows better than the config.
NAMED_ALREADY = ('train_dataloader', 'val_dataloader', 'test_dataloader', 'val_evaluator', 'test_evaluator')
REGISTRIES = (
    *(root.MODELS, root.DATASETS, root.TRANSFORMS, root.HOOKS, root.TASK_UTILS, root.OPTIMIZERS, root.LOOPS),
    *(root.OPTIM_WRAPPERS, root.OPTIM_WRAPPER_CONSTRUCTORS, root.PARAM_SCHEDULERS, root.METRICS, root.EVALUATOR),
    *(root.DATA_SAMPLERS, root.VISUALIZERS, root.VISBACKENDS, root.LOG_PROCESSORS, root.WEIGHT_INITIALIZERS),
    *(root.FUNCTIONS, root.RUNNERS),
)


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
    builds, step, loader = [], None, None
    for frame in _frames(error):
        name, file = frame.f_code.co_name, Path(frame.f_code.co_filename)
        if name == 'build_from_cfg' and file.name == 'build_functions.py':
            builds.append(frame)
            loader = None
        elif file.name != 'runner.py':  # MMEngine's or ours
            continue
        elif name == 'build_dataloader':
            loader = LOADERS.get(step)
        elif name in RUNNER_STEPS:
            step = RUNNER_STEPS[name]
    if builds and not any(_locate(frame, cfg) for frame in builds):
        step = step or _hook_path(error, cfg)
    located = next(((frame, part) for frame in reversed(builds) if (part := _locate(frame, cfg))), None)
    if located is None and step is None:
        return None
    text = _plain(error)
    if located is None or loader:
        return f'{loader or step}: {_reason(error, text)}'
    frame, part = located
    if isinstance(error, ValueError) and part.top in NAMED_ALREADY:
        return text
    innermost = frame is builds[-1]
    return (innermost and _known_reason(text, part, frame)) or f'{part.path}: {_reason(error, text)}'


def _known_reason(text: str, part: Part, frame: FrameType) -> str | None:
    """Return a better line on the three errors that wrong keys and types cause; None for any other."""
    name, built = part.node.get('type'), frame.f_locals.get('obj_cls')
    if match := re.match(r"'?(.+?) is not in the (?:[\w]+::)?([\w ]+?) registry", text):
        registries = tuple(r for r in REGISTRIES if r.name == match[2].strip()) or (root.MODELS,)
        with DefaultScope.overwrite_default_scope(part.cfg.get('default_scope', 'mmengine')):
            return unknown_type(part.path, match[1], registries)
    of = name if isinstance(name, str) else getattr(name, '__name__', name)
    if match := re.search(r"got an unexpected keyword argument '(\w+)'", text):
        known = accepted(built)[0] if built else frozenset()
        if match[1] in part.node:
            return unknown_key(part.path, match[1], known, of) or (
                f'{part.path}: {match[1]!r} is not an argument of {of}, which has {", ".join(sorted(known))}'
            )
    if match := re.search(r'missing \d+ required (?:positional|keyword-only) arguments?: (.+)', text):
        return f'{part.path}: {of} needs {match[1]}'
    return None


def _reason(error: Exception, text: str) -> str:
    if isinstance(error, ValueError):
        return text
    return f'cannot be built: {type(error).__name__}: {text} (MMYOLO_EXT_DEBUG=1 shows the traceback)'


def _plain(error: Exception) -> str:
    """Return the message without the prefix of older versions of MMEngine and without the quotes of a KeyError."""
    text = error.args[0] if isinstance(error, KeyError) and error.args else str(error)
    text = re.sub(r'^(class `\w+` in [\w/.]+: )+', '', ' '.join(str(text).split()))
    return text or _failed_line(error)


def _failed_line(error: Exception) -> str:
    """Return the line of code that failed, for assertions without a message."""
    *_, last = _frames(error) if error.__traceback__ else (None,)
    return last and linecache.getline(last.f_code.co_filename, last.f_lineno).strip() or type(error).__name__


def _hook_path(error: Exception, cfg: Config) -> str | None:
    """Return the config path of the hook whose method was building something."""
    for frame in _frames(error):
        owner = frame.f_locals.get('self')
        if isinstance(owner, Hook):
            names = {type(owner).__name__}
            return next((part.path for part in parts(cfg) if kind(part.node) in names), 'the hooks')
    return None


def _frames(error: BaseException) -> Iterator[FrameType]:
    """Yield the frames of a traceback, outermost first."""
    traceback = error.__traceback__
    while traceback:
        yield traceback.tb_frame
        traceback = traceback.tb_next


def _locate(frame: FrameType, cfg: Config) -> Part | None:
    """Return the part of the config that a frame of MMEngine builds: that of its type with most of its arguments.

    MMEngine builds copies, to which other parts may have added arguments.
    """
    built = frame.f_locals.get('cfg')
    if not isinstance(built, dict):
        return None
    candidates = [part for part in parts(cfg) if part.node.get('type') == built.get('type')]
    return max(candidates, key=lambda part: _common(part.node, built), default=None)


def _common(node: dict, built: dict) -> int:
    return sum(key in built and _same(value, built[key]) for key, value in node.items())


def _same(one: object, other: object) -> bool:
    try:
        return bool(one == other)
    except Exception:  # arrays and tensors do not compare to a bool
        return False
