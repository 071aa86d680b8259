"""Set and check how a run starts: its files, its weights, its precision."""

import tempfile
import zipfile
from pathlib import Path

from mmengine.config import Config

from mmyolo_ext.checkpoint.model_zoo import find_weights, is_zoo_name
from mmyolo_ext.checkpoint.pickle_objects import RefusedError
from mmyolo_ext.checkpoint.safe_load import check_growth
from mmyolo_ext.checkpoint.writing import checkpoint_names


def turn_on_amp(cfg: Config) -> None:
    """Replace the optimizer wrapper of a config by its mixed-precision form."""
    ours = str(cfg.optim_wrapper.get('type', '')).endswith(('YOLOOptimWrapper', 'YOLOAmpOptimWrapper'))
    cfg.optim_wrapper.type = 'mmyolo_ext.YOLOAmpOptimWrapper' if ours else 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def set_start(cfg: Config, resume: str) -> None:
    """Set ``resume`` and ``load_from`` of a config for ``--resume``, which is ``'auto'`` or names a checkpoint.

    Where the work dir has no checkpoint, a training starts as the config defines it, from its weights if any.
    """
    hook = (cfg.get('default_hooks') or {}).get('checkpoint') or {}
    out_dir = hook.get('out_dir')  # as CheckpointHook uses it
    folder = Path(cfg.work_dir) if out_dir is None else Path(out_dir) / Path(cfg.work_dir).name
    if resume != 'auto':
        cfg.resume, cfg.load_from = True, resume
    elif checkpoint_names(folder):
        cfg.resume, cfg.load_from = True, None
    else:
        cfg.resume = False


def check_start(cfg: Config) -> None:
    """Check the checkpoint that ``load_from`` names; the runner checks those in the work dir.

    Raises:
        ValueError: As :func:`check_checkpoint`; for missing weights, how to get or name them.
    """
    start = cfg.load_from
    if is_zoo_name(start):
        find_weights(start)
        return
    if not cfg.get('resume') and '://' not in start and not Path(start).is_file():
        raise ValueError(
            f'there are no weights {start} to start from, which load_from names: put a checkpoint there (those of '
            'YOLOv5 of Ultralytics and MMYOLO need no conversion), or set --cfg-options load_from=PATH or None'
        )
    check_checkpoint(start)


def check_checkpoint(path: str) -> None:
    """Check that a checkpoint exists, and the sums over its parts, which torch does not compare.

    Raises:
        ValueError: Naming the file.
    """
    if '://' in path:  # read by MMEngine
        return
    file = Path(path)
    if not file.is_file():
        raise ValueError(f'there is no checkpoint {path}')
    if not zipfile.is_zipfile(file):  # its reader names what is wrong
        return
    try:
        with zipfile.ZipFile(file) as archive:
            check_growth(archive.infolist(), file.stat().st_size)
            broken = archive.testzip()
    except (RefusedError, zipfile.BadZipFile, OSError) as error:
        raise ValueError(f'the checkpoint {path} is broken or refused: {error}') from error
    if broken:
        raise ValueError(f'the checkpoint {path} is broken: the sum over its part {broken} is wrong')


def check_work_dir(work_dir: str) -> None:
    """Make the folder and try to write into it.

    Raises:
        ValueError: Naming the folder and the reason.
    """
    try:
        Path(work_dir).mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=work_dir):
            pass
    except OSError as error:
        raise ValueError(
            f'the work dir {work_dir} cannot be written: {error.strerror}; choose another by --work-dir'
        ) from error
