"""What a search is of: the config, the space, the metric; checked before anything runs."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from mmengine.config import Config

from mmyolo_ext.apis.config import load_config
from mmyolo_ext.apis.config_nodes import kind, walk
from mmyolo_ext.apis.tuning.delta import check_effect, delta_text
from mmyolo_ext.apis.tuning.memory import differences
from mmyolo_ext.apis.tuning.space import Parameter, fit_space, read_space

COCO_ITEMS = ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
OF_CONFIG = 'config '
PRUNERS = ('median', 'hyperband', 'none')


class Effort(NamedTuple):
    """How much a search may take; this may change from one start of it to the next.

    Attributes:
        trials: in all, the config as it stands included.
        jobs: side by side.
        hours: until it ends; None for no limit.
        pruner: one of ``PRUNERS``: what ends trainings that lag behind.
    """

    trials: int = 20
    jobs: int = 1
    hours: float | None = None
    pruner: str = 'median'


class Plan(NamedTuple):
    """See :func:`make_plan`.

    Attributes:
        config: file of the config to improve.
        options: settings on top of it, in every training; they do not belong to what is found.
        space: the parameters by their keys.
        left_out: optional keys of the space that the config has not.
        metric: name of the score, as validation reports it.
        greater: whether more of it is better.
        seed: of every training, and of the search.
        length: of a training, in units.
        unit: ``'epoch'`` or ``'iteration'``.
        validations: of a training.
        identity: what a search must have in common with one to go on with.
    """

    config: Path
    options: dict
    space: dict[str, Parameter]
    left_out: list[str]
    metric: str
    greater: bool
    seed: int
    length: int
    unit: str
    validations: int
    identity: dict[str, Any]


def make_plan(
    config: Path,
    space_file: Path,
    work_dir: Path,
    metric: str | None = None,
    greater: bool = True,
    epochs: int | None = None,
    seed: int = 0,
    options: dict | None = None,
) -> Plan:
    """Read and check everything; ``work_dir`` must be there.

    Args:
        config: file.
        space_file: file.
        work_dir: of the search.
        metric: None for the one by which the config chooses its best checkpoint, else ``coco/bbox_mAP``.
        greater: whether more of it is better.
        epochs: of each training; None for those of the config.
        seed: of every training.
        options: of ``--cfg-options``.

    Raises:
        ValueError: whatever a training or the search would stumble upon, as far as it can be told.
    """
    options = {**(options or {}), **_lengths(config, options, epochs), 'randomness.seed': seed}
    cfg = load_config(config, options)
    metric = metric or _saved_by(cfg) or 'coco/bbox_mAP'
    _check_metric(cfg, metric)
    options |= _checkpoint_options(cfg, metric, greater)
    cfg = load_config(config, options)
    space, left_out = fit_space(read_space(space_file), cfg._cfg_dict)
    if epochs and 'max_epochs' in space:
        raise ValueError('max_epochs is in the space: leave --epochs out')
    _probe(config, work_dir, space, options)
    length = cfg.train_cfg.get('max_epochs') or cfg.train_cfg.get('max_iters')
    validations = max(length // cfg.train_cfg.get('val_interval', 1), 1)
    ranges = {key: _plain(parameter) for key, parameter in space.items()}
    identity = {
        **{'metric': metric, 'greater is better': greater},
        **{f'space {key}': told for key, told in ranges.items()},
        **_told(cfg),
    }
    unit = 'epoch' if cfg.train_cfg.get('max_epochs') else 'iteration'
    return Plan(config, options, space, left_out, metric, greater, seed, length, unit, validations, identity)


def trial_config(plan: Plan, values: dict[str, Any], folder: Path) -> Path:
    """Write the whole config of a training into ``folder``, and ``values.py``, the delta; the former's path.

    Raises:
        ValueError: the config that is searched has been edited meanwhile; naming what differs.
    """
    now = _told(load_config(plan.config, plan.options))
    changed = differences({key: told for key, told in plan.identity.items() if key.startswith(OF_CONFIG)}, now)
    if changed:
        raise ValueError(
            f'{plan.config} has changed since the search was started: {changed}; put it back to go on, or take '
            'another --work-dir for the new one'
        )
    chosen = {key: (plan.space[key], value) for key, value in values.items()}
    delta = folder / 'values.py'
    delta.write_text(delta_text(plan.config, folder, chosen))
    cfg = check_effect(delta, chosen, plan.options)
    _log_scalars(cfg)
    cfg.dump(folder / 'config.py')
    return folder / 'config.py'


def flat(node: Any, name: str = '') -> dict[str, str]:
    """Every leaf of nested dicts and lists by its dotted key, as text."""
    if not isinstance(node, (dict, list, tuple)) or not node:
        return {name: repr(node)}
    items = node.items() if isinstance(node, dict) else enumerate(node)
    return {
        key: text
        for step, value in items
        for key, text in flat(value, f'{name}.{step}' if name else f'{step}').items()
    }


def _told(cfg: Config) -> dict[str, str]:
    return {OF_CONFIG + key: told for key, told in flat(cfg.to_dict()).items() if key != 'work_dir'}


def _lengths(config: Path, options: dict | None, epochs: int | None) -> dict:
    if epochs is None:
        return {}
    loop = load_config(config, options).get('train_cfg') or {}
    if 'max_iters' in loop:
        raise ValueError('--epochs needs a config that counts epochs: use --cfg-options train_cfg.max_iters=...')
    return {'max_epochs': epochs}


def _saved_by(cfg: Config) -> str | None:
    saved = (cfg.get('default_hooks', {}).get('checkpoint') or {}).get('save_best')
    return saved if isinstance(saved, str) and saved != 'auto' else None


def _check_metric(cfg: Config, metric: str) -> None:
    missing = [key for key in ('train_cfg', 'val_dataloader', 'val_evaluator') if not cfg.get(key)]
    if missing:
        raise ValueError(f'the config has no {", ".join(missing)}: a search needs one that trains and validates')
    if not {'max_epochs', 'max_iters'} & cfg.train_cfg.keys():
        raise ValueError(f'train_cfg must say max_epochs or max_iters, got {dict(cfg.train_cfg)}')
    known = []
    for node in walk(cfg._cfg_dict.get('val_evaluator')):
        if kind(node) != 'CocoMetric':
            if 'type' in node:
                return  # what others report is told by the first validation
            continue
        kinds = node.get('metric', 'bbox')
        items = node.get('metric_items') or COCO_ITEMS
        names = [f'{name}_{item}' for name in ([kinds] if isinstance(kinds, str) else kinds) for item in items]
        known += [f'{node.get("prefix") or "coco"}/{name}' for name in names]
    if known and metric not in known and not metric.endswith('_precision'):  # of a class
        raise ValueError(f'validation reports no {metric!r}: --metric must be one of {", ".join(known)}')


def _checkpoint_options(cfg: Config, metric: str, greater: bool) -> dict:
    """Of each training only the best checkpoint and the last two are kept: one may be cut short by what ends it."""
    if not cfg.get('default_hooks', {}).get('checkpoint'):
        return {}
    chosen = {'max_keep_ckpts': 2, 'save_best': metric, 'rule': 'greater' if greater else 'less'}
    return {f'default_hooks.checkpoint.{key}': value for key, value in chosen.items()}


def _probe(config: Path, work_dir: Path, space: dict[str, Parameter], options: dict) -> None:
    """See that every key of the space has an effect."""
    chosen = {key: (parameter, parameter.another()) for key, parameter in space.items()}
    probe = work_dir / '.probe.py'
    probe.write_text(delta_text(config, work_dir, chosen))
    try:
        check_effect(probe, chosen, options)
    finally:
        probe.unlink()


def _log_scalars(cfg: Config) -> None:
    """The search reads what MMEngine's local backend writes."""
    visualizer = cfg.get('visualizer') or {'type': 'Visualizer'}
    backends = list(visualizer.get('vis_backends') or [])
    if not any(kind(backend) == 'LocalVisBackend' for backend in backends):
        cfg.visualizer = {**visualizer, 'vis_backends': [*backends, {'type': 'LocalVisBackend'}]}


def _plain(parameter: Parameter) -> str:
    if parameter.choices:
        return json.dumps(parameter.choices, default=repr)
    notes = [' log'] if parameter.log else []
    notes += [f' in steps of {parameter.step}'] if parameter.step else []
    return f'{parameter.low} to {parameter.high}' + ''.join(notes)
