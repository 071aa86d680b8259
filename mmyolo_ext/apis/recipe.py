"""Choose the settings of a training by its data: ``recipe = 'auto'``.

The numbers interpolate between two trainings from scratch (docs/guides/recipe.md): BCCD, 292 images and 100 epochs of
19 steps with AdamW, and COCO with the recipe of YOLOv5, 118,000 images and 300 epochs of 1,844 steps with SGD.
"""

import logging
import math
import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import deepcopy
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.registry import DefaultScope

from mmyolo_ext.apis.config_nodes import LOADERS, get_path, kind, leaf_datasets, nodes
from mmyolo_ext.apis.shortcuts import SHORTCUTS, resized_hw
from mmyolo_ext.registry import DATASETS

SMALL, LARGE = 292, 118_000  # images of BCCD and COCO
STEPS, EPOCHS, MOST_EPOCHS = 1_900, 100, 500
SGD_STEPS = 32_000  # geometric mean of 1,900 and 553,200
WARP_LEAVES = 4.0  # px: half of the finest stride
MOST_WORKERS = {'cpu': 4, 'cuda': 8}
SAMPLED = 2_000  # images whose boxes are measured
# what a shortcut of the user's sets
SET_BY_SHORTCUTS = {'max_epochs': 'train_cfg.max_epochs', 'batch_size': 'train_dataloader.batch_size'}
OPTIMIZER_TYPE = {'optim_wrapper', 'optim_wrapper.optimizer', 'optim_wrapper.optimizer.type'}
DIRECTED = ('left', 'right', 'arrow', 'turn')


class Choice(NamedTuple):
    """A setting that the recipe has chosen."""

    path: str
    value: Any
    reason: str

    def __str__(self) -> str:
        return f'{self.path} = {_shown(self.value)} ({self.reason})'


@dataclass(frozen=True)
class Facts:
    """What the recipe depends on.

    Args:
        images: Number of training images.
        class_names: Names of the classes.
        small_side: Side of the smallest tenth of the boxes, px at the input size: sqrt(width * height).
        input_hw: (height, width) of the input, px.
        batch_size: Images of one process and iteration.
        batch_is_set: Whether the user has set it.
        nominal_batch_size: Images per step, if the user has set them.
        epochs: Length of the training, if the user has set it.
        optimizer: Type of the optimizer, if the user has set it.
        ranks: Number of processes.
        device: 'cpu' or 'cuda'.
        cores: CPU cores of one process.
        memory_gb: Free memory for the cache of one process, GB (10^9 bytes).
        pretrained: Whether the training starts from weights.
        ours: Whether the config sums gradients over images, as our recipes do; otherwise its optimizer stays.
        mixes: Whether the pipeline has a mosaic.
        cache: Path of the ``max_gb`` of a ``CachedDataset`` in the config.
        flip: Path of the ``prob`` of a ``HorizontalFlip``.
        affine: Path of the ``scale`` of a ``MosaicAffine`` or ``RandomAffine``, and its value.
    """

    images: int
    class_names: tuple[str, ...] = ()
    small_side: float | None = None
    input_hw: tuple[int, int] = (640, 640)
    batch_size: int = 16
    batch_is_set: bool = False
    nominal_batch_size: int | None = None
    epochs: int | None = None
    optimizer: str | None = None
    ranks: int = 1
    device: str = 'cpu'
    cores: int = 2
    memory_gb: float = 8.0
    pretrained: bool = False
    ours: bool = True
    mixes: bool = True
    cache: str | None = 'train_dataloader.dataset.dataset.max_gb'
    flip: str | None = 'train_dataloader.dataset.pipeline.2.prob'
    affine: tuple[str, float] | None = ('train_dataloader.dataset.pipeline.0.scale', 0.5)


def choose_recipe(facts: Facts) -> list[Choice]:
    """Return the settings for a training, each with its reason.

    Raises:
        ValueError: If there are no images.
    """
    if facts.images < 1:
        raise ValueError('recipe = "auto" needs at least one training image, got 0')
    return [*_length(facts), *_augmentation(facts), *_loading(facts)]


def _length(facts: Facts) -> Iterator[Choice]:
    """Yield batch, steps, epochs, and the optimizer, schedule and hooks that follow from them."""
    images = f'{facts.images:,} images'
    # 0 for a dataset like BCCD, 1 for one like COCO
    size = min(max(math.log(facts.images / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    nominal = facts.nominal_batch_size or _images_per_step(facts.images, size)
    batch, each = facts.batch_size, max(nominal // facts.ranks, 1)
    if facts.ours and batch > each and not facts.batch_is_set:
        batch = each
        yield Choice('train_dataloader.batch_size', batch, f'{images}: a step has {nominal} of them')
    iterations = math.ceil(facts.images / (batch * facts.ranks))  # of an epoch
    count = max(round(nominal / (batch * facts.ranks)), 1) if facts.ours else 1
    steps = math.ceil(iterations / count)
    if facts.ours and facts.nominal_batch_size is None:
        yield Choice('default_hooks.accumulate.nominal_batch_size', nominal, f'{images}: {steps:,} steps per epoch')
    epochs = facts.epochs or _epochs(steps, size, facts.pretrained)
    total = epochs * steps
    if facts.epochs is None:
        start = 'from trained weights' if facts.pretrained else 'from scratch'
        yield Choice('train_cfg.max_epochs', epochs, f'{images}, {start}: {total:,} steps')
    every = max(min(epochs // 10, 10), 1)
    yield Choice('train_cfg.val_interval', every, f'{math.ceil(epochs / every)} validations')
    if steps < 50:
        yield Choice('default_hooks.checkpoint.interval', every, f'an epoch has only {steps} steps')
    if facts.ours:
        yield from _optimizer(facts, total, epochs, epochs * iterations)
    if facts.mixes and facts.ours:
        tenth = min(epochs // 10, math.ceil(STEPS / 10 / steps))
        closed = min(max(tenth, 10), epochs // 3)
        why = f'the last {closed * steps:,} steps on plain images' if closed else 'the training is too short'
        yield Choice('default_hooks.close_mosaic.num_last_epochs', closed, why)


def _images_per_step(images: int, size: float) -> int:
    """Return a power of two: 16 for BCCD, 64 for COCO; fewer where an epoch would have less than four steps."""
    nominal = 2 ** round(math.log2(16 * 4**size))
    while nominal > 4 and math.ceil(images / nominal) < 4:
        nominal //= 2
    return nominal


def _epochs(steps: int, size: float, pretrained: bool) -> int:
    """Return the number of epochs: as many steps as for BCCD, and from there on 100 to 300 epochs."""
    epochs = max(min(STEPS / steps, MOST_EPOCHS), EPOCHS * 3**size)
    return max(round(epochs / (20 if pretrained else 10)) * 10, 10)


def _optimizer(facts: Facts, total: int, epochs: int, iterations: int) -> Iterator[Choice]:
    pretrained = facts.pretrained
    warmup = {
        'convert_to_iter_based': True,
        'warmup_epochs': round(min(1 if pretrained else 3, epochs / 10), 2),
        'min_warmup_iters': min(50 if pretrained else 100, max(iterations // 10, 1)),
    }
    rates = {'type': 'mmyolo_ext.WarmupLinearLR', **warmup, 'bias_start': 0.0, 'final_factor': 0.01}
    schedules = [rates]
    optimizer = {'type': 'AdamW', 'lr': 0.002, 'weight_decay': 0.05}
    why = f'{total:,} steps are few, and AdamW needs fewer than SGD'
    if total >= SGD_STEPS:
        optimizer = {'type': 'SGD', 'lr': 0.01, 'momentum': 0.937, 'nesterov': True, 'weight_decay': 0.0005}
        why = f'{total:,} steps are enough for SGD'
    if facts.optimizer is None:
        yield Choice('optim_wrapper.optimizer', optimizer, why)
    why = f'no high rate for biases {"that are trained already" if pretrained else "at the start"}'
    if (facts.optimizer or optimizer['type']) == 'SGD':
        schedules.append({'type': 'mmyolo_ext.WarmupMomentum', **warmup, 'start': 0.8})
        if not pretrained:
            rates['bias_start'], why = 0.1, 'as for COCO'
    yield Choice('param_scheduler', schedules, why)
    horizon = max(min(int(float(f'{total / 10:.1g}')), 10_000), 2)
    yield Choice(
        'default_hooks.ema',
        {'momentum': float(f'{1 / horizon:.3g}'), 'gamma': min(horizon, 2000)},
        f'over the last {horizon:,} steps, a tenth of the training' + (' at most' if horizon == 10_000 else ''),
    )


def _augmentation(facts: Facts) -> Iterator[Choice]:
    directed = [name for name in facts.class_names if _has_direction(name)]
    if facts.flip and directed:
        yield Choice(facts.flip, 0.0, f'class {directed[0]!r} may look different, or mean another class, in a mirror')
    if facts.affine and facts.small_side:
        path, scale = facts.affine
        least = round(min(max(1 - WARP_LEAVES / facts.small_side, 0.1), 0.9), 1)
        if least < scale:
            small = f'a tenth of the boxes is smaller than {facts.small_side:.1f} px at the input size'
            advice = ': consider a larger img_scale, or tiles' if facts.small_side < 2 * WARP_LEAVES else ''
            yield Choice(path, least, small + advice)


def _has_direction(name: str) -> bool:
    """Return whether a mirror image of the class is probably of another class: characters, left and right."""
    words = name.lower().replace('_', ' ').replace('-', ' ').split()
    return len(name) == 1 and name.isalnum() or any(word in DIRECTED for word in words)


def _loading(facts: Facts) -> Iterator[Choice]:
    if facts.device == 'cpu':
        workers, why = max(facts.cores // 2, 1), f'{facts.cores} cores, which the network needs too'
    else:
        workers, why = max(facts.cores, 1), f'{facts.cores} cores for each process'
    yield Choice('train_dataloader.num_workers', min(workers, MOST_WORKERS.get(facts.device, 8)), why)
    if facts.cache:
        needed = facts.images * facts.input_hw[0] * facts.input_hw[1] * 3 / 1e9
        limit = facts.memory_gb / 2
        why = f'{facts.images:,} images need {needed:.{1 if needed >= 0.1 else 3}f} GB at most'
        if needed > limit:
            why += f', half of the free memory is {limit:.1f} GB: the others are decoded each time'
        yield Choice(facts.cache, math.ceil(min(needed, limit) * 10) / 10, why)


def set_recipe(cfg: Config, source: Any = None, keep: Iterable[str] = ()) -> list[Choice]:
    """Choose the recipe for the training data of a config, and set it in place.

    ``cfg.chosen_recipe`` lists what was set and why, for the log and the checkpoint.

    Args:
        cfg: A config whose shortcuts have been applied.
        source: The data of :func:`mmyolo_ext.apis.data.set_data`; what is read is the training set of the config.
        keep: Settings that the user has made, which stay: dotted paths such as ``train_cfg.max_epochs``, shortcuts.

    Returns:
        The choices that were set.

    Raises:
        ValueError: If the training counts iterations, or its data cannot be read.
    """
    if not (cfg.get('train_cfg') or {}).get('max_epochs'):
        raise ValueError("recipe = 'auto' needs a training of train_cfg.max_epochs epochs: set recipe = None")
    keep = {SET_BY_SHORTCUTS.get(path, path) for path in keep}
    done = []
    for choice in choose_recipe(facts_of(cfg, keep)):
        hook = choice.path.split('.')[1] if choice.path.startswith('default_hooks.') else None
        if hook and not cfg.default_hooks.get(hook) or any(f'{choice.path}.'.startswith(f'{path}.') for path in keep):
            continue
        value, inside = deepcopy(choice.value), f'{choice.path}.'
        own = {path.removeprefix(inside): get_path(cfg, path) for path in sorted(keep) if path.startswith(inside)}
        if all(_put(value, path, setting) for path, setting in own.items()):
            done.append(choice._replace(value=value))
            _apply(cfg, done[-1])
    cfg.chosen_recipe = [choice._asdict() for choice in done]
    return done


def _put(node: Any, path: str, value: Any) -> bool:
    """Set what stands at a dotted path of nested dicts and lists; return False if the path leads nowhere."""
    *parents, last = path.split('.')
    for part in parents:
        node = node[int(part)] if isinstance(node, list) and part.isdigit() and int(part) < len(node) else None
    if isinstance(node, dict):
        node[last] = value
    return isinstance(node, dict)


def _apply(cfg: Config, choice: Choice) -> None:
    first, _, rest = choice.path.partition('.')
    if choice.path == 'train_cfg.max_epochs':
        SHORTCUTS['max_epochs'](cfg, choice.value, ())  # schedules of other types move with it
    elif not rest:
        cfg[first] = choice.value
    else:
        parent, _, key = choice.path.rpartition('.')
        node = get_path(cfg, parent)
        if isinstance(choice.value, dict) and 'type' not in choice.value:
            node[key].update(choice.value)
        else:
            node[key] = choice.value
    if choice.path == 'train_dataloader.num_workers':
        for loader in LOADERS:
            if cfg.get(loader):
                cfg[loader].update(num_workers=choice.value, persistent_workers=choice.value > 0)


def facts_of(cfg: Config, keep: Collection[str] = ()) -> Facts:
    """Return the facts of a config, of its training data, and of this machine.

    Args:
        cfg: A config whose shortcuts have been applied.
        keep: Paths of the settings of the user.
    """
    hooks, loader = cfg.get('default_hooks') or {}, cfg.train_dataloader
    ours = kind(hooks.get('accumulate') or {}) == 'AccumulateHook'
    images, names, small_side, input_hw = read_data(cfg)
    ranks, device = int(os.environ.get('WORLD_SIZE', 1)), torch.device(get_device()).type
    on_machine = int(os.environ.get('LOCAL_WORLD_SIZE', ranks))
    parts = {kind(node): (path, node) for path, node in nodes(loader.dataset, 'train_dataloader.dataset')}
    cache, flip = parts.get('CachedDataset'), parts.get('HorizontalFlip')
    affine = parts.get('MosaicAffine') or parts.get('RandomAffine')
    nominal = 'default_hooks.accumulate.nominal_batch_size' in keep
    return Facts(
        images,
        names,
        small_side,
        input_hw,
        batch_size=loader.get('batch_size') or 1,
        batch_is_set='train_dataloader.batch_size' in keep,
        nominal_batch_size=hooks['accumulate'].nominal_batch_size if ours and nominal else None,
        epochs=cfg.train_cfg.get('max_epochs') if 'train_cfg.max_epochs' in keep else None,
        optimizer=kind(cfg.optim_wrapper.optimizer) if OPTIMIZER_TYPE & set(keep) else None,
        ranks=ranks,
        device=device,
        cores=int(os.environ.get('SLURM_CPUS_PER_TASK', 0)) or max(cores() // on_machine, 1),
        memory_gb=free_memory_gb() / on_machine,
        pretrained=cfg.get('load_from') is not None,
        ours=ours,
        mixes='MosaicAffine' in parts or 'Mosaic' in parts,
        cache=cache and f'{cache[0]}.max_gb',
        flip=flip and f'{flip[0]}.prob',
        affine=affine and (f'{affine[0]}.scale', affine[1].get('scale', 0.5)),
    )


def read_data(cfg: Config) -> tuple[int, tuple[str, ...], float | None, tuple[int, int]]:
    """Read the training data of a config: images, class names, ``small_side`` and ``input_hw`` of :class:`Facts`."""
    input_hw = resized_hw(cfg, 'val_dataloader') or resized_hw(cfg, 'train_dataloader') or (640, 640)
    images, names, sides = 0, (), []
    wrappers = [node for _, node in nodes(cfg.train_dataloader.dataset, '') if kind(node) == 'TiledDataset']
    with DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmdet'), _quiet():
        for leaf in leaf_datasets(cfg.train_dataloader.dataset):
            try:
                dataset = DATASETS.build({**leaf, 'pipeline': [], 'lazy_init': False})
            except (KeyError, IndexError, TypeError, AttributeError) as error:  # of other datasets on broken files
                raise ValueError(f'recipe = "auto" cannot read the training data {dict(leaf)}: {error!r}') from error
            if wrappers:  # a step has tiles, not images
                dataset = DATASETS.build({**wrappers[0], 'dataset': dataset})
            names = names or tuple((getattr(dataset, 'metainfo', None) or {}).get('classes') or ())
            for index in range(0, len(dataset), -(-len(dataset) // SAMPLED) or 1):
                sides += _sides(dataset.get_data_info(index), input_hw)
            images += len(dataset)
    return images, names, float(np.percentile(sides, 10)) if sides else None, input_hw


def _sides(info: dict, input_hw: tuple[int, int]) -> list[float]:
    height, width = info.get('height'), info.get('width')
    if not height or not width:
        return []
    scale = min(input_hw[0] / height, input_hw[1] / width)
    boxes = [one['bbox'] for one in info.get('instances') or () if not one.get('ignore_flag')]
    return [scale * math.sqrt(max(x2 - x1, 0) * max(y2 - y1, 0)) for x1, y1, x2, y2 in boxes]


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what a dataset logs and prints: the run reads it again."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with redirect_stdout(StringIO()):
            yield
    finally:
        logging.disable(before)


def cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1


def free_memory_gb() -> float:
    """Return the memory that is free on this machine or in this container, GB; 4 where the system does not say."""
    free = []
    try:
        rows = dict(line.split(':') for line in Path('/proc/meminfo').read_text(encoding='ascii').splitlines())
        free.append(int(rows['MemAvailable'].split()[0]) * 1024)
        group = Path('/sys/fs/cgroup')  # of a container, version 2
        limit = (group / 'memory.max').read_text(encoding='ascii').strip()
        if limit.isdigit():
            free.append(int(limit) - int((group / 'memory.current').read_text(encoding='ascii')))
    except (OSError, ValueError, KeyError):
        pass
    return max(min(free), 0) / 1e9 if free else 4.0


def _shown(value: Any) -> str:
    """Return a value as short text: ``AdamW(lr=0.002, weight_decay=0.05)``."""
    if isinstance(value, (list, tuple)):
        return ' + '.join(map(_shown, value))
    if isinstance(value, dict):
        text = ', '.join(
            f'{key}={part}' for key, part in value.items() if key not in ('type', 'convert_to_iter_based')
        )
        return f'{str(value["type"]).rsplit(".", 1)[-1]}({text})' if 'type' in value else text
    return str(value)
