"""Train from Python: ``train('yolov5_n', 'data.yaml', epochs=50)``."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import utils as devices
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from mmyolo_ext.apis.config import CHECKPOINTS, KNOWN_KEYS, SUFFIXES, load_config
from mmyolo_ext.apis.config_check import check_config
from mmyolo_ext.apis.config_errors import config_errors_named
from mmyolo_ext.apis.config_nodes import closest
from mmyolo_ext.apis.distributed import prepare_processes
from mmyolo_ext.apis.recipe import Choice
from mmyolo_ext.apis.start import check_start, set_start, turn_on_amp
from mmyolo_ext.coco_json import keep_annotations

# short names of the arguments, and the config keys that they stand for
ARGUMENTS = {'epochs': 'max_epochs', 'img_scale': 'input_size', 'seed': 'randomness.seed'}
OTHERS = ('device', 'work_dir', 'amp', 'resume')


@dataclass(frozen=True)
class Run:
    """A finished training.

    Args:
        work_dir: Folder of its checkpoints and logs.
        best: The best checkpoint by the metric that the config names in ``save_best``, else the last one.
        metrics: Scores of the validation of the best checkpoint, such as ``coco/bbox_mAP``; empty without validation.
    """

    work_dir: Path
    best: Path | None
    metrics: dict[str, float] = field(default_factory=dict)


def build_config(
    model: str | Path, data: str | Path | None = None, recipe: str | None = 'auto', **overrides: Any
) -> Config:
    """Return the config of a training.

    Args:
        model: Name such as ``'yolov5_n'``, a config file, or ``'mmyolo_ext::...'``.
        data: A ``data.yaml``, a COCO JSON file, a folder or a zip; None for the data of the config.
        recipe: ``'auto'`` chooses what the overrides and the user's config leave open by the data, see
            docs/guides/recipe.md; None keeps the settings of the config. Without ``data`` the config decides.
        **overrides: ``epochs``, ``batch_size`` (a number or ``'auto'``), ``img_scale`` (px, a side or (width,
            height)), ``patience`` (epochs), ``seed``, ``load_from``, ``work_dir``, ``device`` (``'cpu'``,
            ``'cuda:1'``), ``amp``, ``resume`` (True or a checkpoint), shortcuts, and dotted config keys:
            ``**{'optim_wrapper.optimizer.lr': 0.001}``.

    Raises:
        ValueError: On an unknown model or override, or data that cannot be read.
    """
    settings = {name: value for name, value in overrides.items() if name not in OTHERS}
    known = (*ARGUMENTS, *OTHERS, *KNOWN_KEYS)
    for name in settings:
        first = name.partition('.')[0]
        if first not in known:
            match = closest(first, known)
            hint = f'did you mean {match!r}?' if match else f'the usual ones are {", ".join((*ARGUMENTS, *OTHERS))}'
            raise ValueError(f'there is no setting {name!r}: {hint}')
    run = {name: overrides.get(name) for name in ('work_dir', 'device')}
    cfg = read_run_config(model, data, recipe, settings, **run)
    if overrides.get('amp'):
        turn_on_amp(cfg)
    if overrides.get('resume'):
        set_start(cfg, 'auto' if overrides['resume'] is True else str(overrides['resume']))
    return cfg


def read_run_config(
    model: str | Path,
    data: str | Path | None,
    recipe: str | None,
    settings: dict[str, Any],
    work_dir: str | Path | None = None,
    device: str | None = None,
    training: bool = True,
) -> Config:
    """Read the config of a training or test, and set its runner and its work dir.

    Args:
        model: As of :func:`build_config`, or a checkpoint with its config.
        data: As of :func:`build_config`.
        recipe: As of :func:`build_config`.
        settings: By dotted config keys or the names in ``ARGUMENTS``.
        work_dir: By default that of the config, else ``work_dirs/MODEL`` or ``work_dirs/MODEL_DATA``.
        device: As of :func:`build_config`.
        training: Whether to choose the recipe.
    """
    path = Path(model)
    if path.suffix not in (*SUFFIXES, *CHECKPOINTS) or '::' in str(model):
        from mmyolo_ext.apis.model_names import config_path

        path = Path(config_path(str(model)))
    options = {ARGUMENTS.get(name, name): value for name, value in settings.items()}
    if isinstance(settings.get('img_scale'), (tuple, list)):
        options['input_size'] = tuple(settings['img_scale'][::-1])  # (height, width)
    if data is not None:
        options = {'data': str(data), 'recipe': recipe, **options}
    elif recipe is None:
        options['recipe'] = None
    if device is not None:
        use_device(device)  # before the recipe asks for it
    keep_annotations()  # of the data, recipe, datasets and metrics; the run drops them before its first step
    cfg = load_config(path, options, with_recipe=training)
    cfg.setdefault('runner_type', 'mmyolo_ext.Runner')
    stem = str(model) if str(model).isidentifier() else path.stem  # a name is shorter than that of its file
    stem += '' if data is None else f'_{_stem(Path(data))}'
    own = cfg.get('work_dir') if path.suffix not in CHECKPOINTS else path.parent
    cfg.work_dir = str(Path(work_dir or own or Path('work_dirs') / stem).expanduser())
    return cfg


def train(model: str | Path, data: str | Path | None = None, recipe: str | None = 'auto', **overrides: Any) -> Run:
    """Train a detector, validate it, and return where its checkpoints are.

    Args:
        model: As of :func:`build_config`.
        data: As of :func:`build_config`.
        recipe: As of :func:`build_config`.
        **overrides: As of :func:`build_config`.

    Raises:
        ValueError: On a wrong argument, config or dataset.
        StopTraining: If the training ends early, with what was saved and how to resume.
    """
    return run_config(build_config(model, data, recipe, **overrides))


def run_config(cfg: Config) -> Run:
    """Train as a config of :func:`build_config` defines it."""
    with config_errors_named(cfg, 'train'):
        if cfg.get('load_from'):
            check_start(cfg)
        if cfg.get('launcher', 'none') != 'none':
            prepare_processes(cfg, cfg.launcher)
        runner = RUNNERS.build(cfg)
    for choice in cfg.get('chosen_recipe') or ():
        runner.logger.info(f'recipe: {Choice(**choice)}')
    check_config(cfg, 'train')
    with config_errors_named(cfg):
        runner.train()
    return finished(runner)


def finished(runner: Runner) -> Run:
    """Return the results of a training."""
    hub = runner.message_hub
    checkpoint = (runner.cfg.get('default_hooks') or {}).get('checkpoint') or {}
    names = checkpoint.get('save_best') or 'coco/bbox_mAP'
    name = names if isinstance(names, str) else names[0]
    best = hub.get_info('best_ckpt') or hub.get_info(f'best_ckpt_{name}') or hub.get_info('last_ckpt')
    scores = {key[4:]: buffer.data[0] for key, buffer in hub.log_scalars.items() if key.startswith('val/')}
    metrics, history = {}, scores.get(name, ())
    if len(history):
        place = max(range(len(history)), key=lambda index: history[index])
        metrics = {key: float(values[place]) for key, values in scores.items() if len(values) == len(history)}
    return Run(Path(runner.work_dir), Path(best) if best else None, metrics)


def use_device(device: str) -> None:
    """Let this process train on ``'cpu'`` or on one of the GPUs, ``'cuda'`` or ``'cuda:1'``.

    Raises:
        ValueError: If there is no such device.
    """
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"device must be 'cpu', 'cuda' or 'cuda:NUMBER', got {device!r}") from error
    count = torch.cuda.device_count()
    if wanted.type == 'cuda' and (wanted.index or 0) >= count:
        raise ValueError(f'there is no device {device!r}: PyTorch sees {count} GPUs')
    if wanted.type == 'cuda':
        torch.cuda.set_device(wanted.index or 0)
    devices.DEVICE = wanted.type  # what MMEngine's get_device returns


def _stem(data: Path) -> str:
    """Return a name for the data: that of a folder or zip, or of the folder of a ``data.yaml``."""
    return data.resolve().parent.name if data.stem in ('data', 'dataset') else data.resolve().stem
