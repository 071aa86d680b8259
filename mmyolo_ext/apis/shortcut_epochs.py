"""The shortcut ``max_epochs``: the loop, the schedules, and the hooks that act at an epoch."""

from collections.abc import Callable

from mmengine.config import Config

from mmyolo_ext.apis.config_nodes import kind, walk

# what lies in the first tenth of a training is a warm-up, whose length does not follow the training's
WARMUP_SHARE = 10
SWITCHES = ('CloseMosaicHook',)


def set_max_epochs(cfg: Config, epochs: int) -> None:
    """Make the training ``epochs`` long.

    Epochs of schedules and hooks keep their share of the training; warm-ups keep their length, within its first half.
    A schedule that nothing is left of is taken out.
    """
    before = cfg.train_cfg.get('max_epochs')
    cfg.train_cfg['max_epochs'] = epochs
    cfg.train_cfg['val_interval'] = min(cfg.train_cfg.get('val_interval', 1), epochs)
    if before:
        _move(cfg, before, epochs)
    for node in walk([cfg.get('custom_hooks'), cfg.get('default_hooks')]):
        if kind(node) in SWITCHES:
            node['num_last_epochs'] = min(node.get('num_last_epochs', 10), epochs // 3)


def _move(cfg: Config, before: int, epochs: int) -> None:
    def moved(epoch: int) -> int:
        if epoch >= before:
            return epochs if epoch == before else epoch
        warmup = min(before // WARMUP_SHARE, epochs // 2)
        return min(epoch, warmup) if epoch <= before // WARMUP_SHARE else max(epoch * epochs // before, warmup)

    if cfg.train_cfg.get('dynamic_intervals'):
        cfg.train_cfg['dynamic_intervals'] = [
            (moved(epoch), every) for epoch, every in cfg.train_cfg.dynamic_intervals
        ]
    schedules = cfg.get('param_scheduler')
    if isinstance(schedules, (list, tuple)):
        for schedule in schedules:
            _move_schedule(schedule, moved)
        cfg.param_scheduler = [s for s in schedules if s.get('end') is None or s.get('begin', 0) < s['end']]
    elif schedules:
        _move_schedule(schedules, moved)
    for hook in walk([cfg.get('custom_hooks'), cfg.get('default_hooks')]):
        if 'switch_epoch' in hook:
            hook['switch_epoch'] = moved(hook['switch_epoch'])
        if 'num_last_epochs' in hook and kind(hook) not in SWITCHES:
            hook['num_last_epochs'] = epochs - moved(max(before - hook['num_last_epochs'], 0))


def _move_schedule(schedule: dict, moved: Callable[[int], int]) -> None:
    if not schedule.get('by_epoch', True):
        return
    begin, end = schedule.get('begin', 0), schedule.get('end')
    if end is not None and end <= begin:
        raise ValueError(f'param_scheduler: end must be after begin, got {schedule}')
    if 'T_max' in schedule:
        length = (moved(end) - moved(begin)) / (end - begin) if end else moved(schedule['T_max']) / schedule['T_max']
        schedule['T_max'] = max(round(schedule['T_max'] * length), 1)
    if 'milestones' in schedule:
        schedule['milestones'] = sorted({moved(epoch) for epoch in schedule['milestones']})
    for key in ('begin', 'end'):
        if key in schedule:
            schedule[key] = moved(schedule[key])
