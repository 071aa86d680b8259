"""Set and check how a run starts: its files, its weights, its precision."""

import tempfile
import zipfile
from pathlib import Path

from mmengine.config import Config

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
    """Check the checkpoint that ``load_from`` names, if any; the runner checks those in the work dir.

    Raises:
        ValueError: As :func:`check_checkpoint`; for missing weights, how to get or name them.
    """
    start = cfg.get('load_from')
    if not start:
        return
    if not cfg.get('resume') and '://' not in start and not Path(start).is_file():
        raise ValueError(
            f'there are no weights {start} to start from, which load_from names: put a checkpoint there, as its '
            'authors publish it (those of YOLOv5 of Ultralytics and MMYOLO are read as they are, '
            'tools/convert_weights.py is not needed), name another by --cfg-options load_from=PATH, or start from '
            'scratch by load_from=None'
        )
    check_checkpoint(start)


def check_checkpoint(path: str) -> None:
    """Check that a checkpoint exists and is complete; MMEngine reads addresses such as ``https://``.

    Raises:
        ValueError: Naming the file and whether it is missing, empty, or cut short.
    """
    if '://' in path or path.endswith('.weights') and Path(path).is_file():  # Darknet's have no mark of their own
        return
    file = Path(path)
    if not file.is_file():
        raise ValueError(f'there is no checkpoint {path}')
    if file.stat().st_size == 0:
        raise ValueError(f'the checkpoint {path} is empty')
    with file.open('rb') as stream:
        start = stream.read(2)
    if start == b'PK':  # torch has written zip archives since 1.6
        try:
            with zipfile.ZipFile(path) as archive:
                check_growth(archive.infolist(), file.stat().st_size)
                broken = archive.testzip()
        except RefusedError as error:
            raise ValueError(f'the checkpoint {path} is refused: it asks for {error}') from error
        except (zipfile.BadZipFile, OSError) as error:
            raise ValueError(f'the checkpoint {path} is broken or cut short: {error}') from error
        if broken:
            raise ValueError(f'the checkpoint {path} is broken: the sum over its part {broken} is wrong')
    elif start[:1] != b'\x80':  # a pickle, as before
        raise ValueError(f'{path} is not a checkpoint of PyTorch: it starts with {start!r}')


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
        reason = error.strerror or error
        raise ValueError(
            f'the work dir {work_dir} cannot be written: {reason}; choose another by --work-dir'
        ) from error
