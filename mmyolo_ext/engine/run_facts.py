"""Facts about a run that are compared when it is resumed."""

import math
from collections.abc import Mapping, Sized
from typing import Any

from mmengine.runner import EpochBasedTrainLoop

from mmyolo_ext.engine.hooks.recipe import AccumulateHook
from mmyolo_ext.engine.optim.constructor import IMPLEMENTATIONS
from mmyolo_ext.engine.preflight_data import class_names


def facts_of(runner) -> dict[str, Any]:
    """Return sizes, lengths and class names of a training as plain data, as far as they are known."""
    loader, by_epoch = runner.train_dataloader, isinstance(runner.train_loop, EpochBasedTrainLoop)
    accumulate = next((hook for hook in runner.hooks if isinstance(hook, AccumulateHook)), None)
    accumulated = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
    facts = {
        'by_epoch': by_epoch,
        'max_epochs' if by_epoch else 'max_iters': runner.max_epochs if by_epoch else runner.max_iters,
        'world_size': runner.world_size,
        'batch_size': loader.batch_size or getattr(loader.batch_sampler, 'batch_size', None),
        'images': len(loader.dataset) if isinstance(loader.dataset, Sized) else None,
        'epoch_length': len(loader) if by_epoch else None,
        'accumulation': accumulate.count(runner) if accumulate else accumulated,
        'nominal': accumulate.nominal_batch_size if accumulate else None,
        'classes': list(class_names(loader.dataset) or ()) or None,
    }
    return {key: value for key, value in facts.items() if value is not None}


def facts_before(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts in a checkpoint; in those of earlier versions, the length of an epoch and the classes."""
    facts = dict(meta.get('run') or {})
    if not facts and meta['epoch'] and meta['iter'] % meta['epoch'] == 0:
        facts['epoch_length'] = meta['iter'] // meta['epoch']
    if 'classes' in meta:
        facts['classes'] = meta['classes']
    return facts


def shifted(scheduler: Any, state: dict, shift: int) -> dict:
    """Return the state of a scheduler for epochs of another length.

    Args:
        scheduler: A function of the iteration (``closed_form``), or one that has ended.
        state: State in the checkpoint.
        shift: Number of iterations by which the end of the last epoch has moved.

    Raises:
        ValueError: If it is neither.
    """
    if not getattr(scheduler, 'closed_form', False):
        if state.get('_global_step', 0) >= state.get('end', math.inf):
            return state  # it has ended
        raise ValueError(f'{type(scheduler).__name__} counts iterations and cannot be rescaled: set the batch back')
    step = state['_global_step'] + shift
    last = min(max(step, scheduler.begin - 1), scheduler.end - 1) - scheduler.begin
    return {**state, '_global_step': step, 'last_step': last}


def optimizer_cfg(wrapper: Any) -> dict | None:
    """Return the optimizer in the config of a wrapper, without the choice of implementation (fused or not)."""
    optimizer = wrapper.get('optimizer') if isinstance(wrapper, Mapping) else None
    if not isinstance(optimizer, Mapping):
        return None
    return {key: value for key, value in spelled(optimizer).items() if key not in IMPLEMENTATIONS}


def spelled(value: Any) -> Any:
    """Return a part of a config as plain data; classes and objects become class names."""
    if isinstance(value, Mapping):
        return {str(key): spelled(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [spelled(part) for part in value]
    if isinstance(value, type):
        return value.__name__
    return value if value is None or isinstance(value, (str, int, float, bool)) else type(value).__name__
