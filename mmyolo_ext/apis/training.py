"""Options of a training that change its config."""

from mmengine.config import Config


def turn_on_amp(cfg: Config) -> None:
    """Replace the optimizer wrapper of a config by its mixed-precision form."""
    ours = str(cfg.optim_wrapper.get('type', '')).endswith(('YOLOOptimWrapper', 'YOLOAmpOptimWrapper'))
    cfg.optim_wrapper.type = 'mmyolo_ext.YOLOAmpOptimWrapper' if ours else 'AmpOptimWrapper'
    cfg.optim_wrapper.setdefault('loss_scale', 'dynamic')


def turn_on_auto_scale_lr(cfg: Config) -> bool:
    """Turn on MMEngine's scaling of the learning rate with the batch size, unless the recipe does that already.

    Returns:
        bool: Whether the recipe fits any batch size by itself (:class:`~mmyolo_ext.engine.hooks.AccumulateHook`).

    Raises:
        ValueError: The config does not say to which batch size its learning rate belongs.
    """
    hooks = [*cfg.get('default_hooks', {}).values(), *cfg.get('custom_hooks', [])]
    if any(str(hook and hook.get('type')).endswith('AccumulateHook') for hook in hooks):
        return True
    if not {'enable', 'base_batch_size'} <= set(cfg.get('auto_scale_lr') or {}):
        raise ValueError('--auto-scale-lr needs auto_scale_lr = dict(enable=False, base_batch_size=...) in the config')
    cfg.auto_scale_lr.enable = True
    return False
