"""Log what part of the loss each of its terms is."""

import re
from collections.abc import Mapping

from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.engine.hooks.log_lines import is_logged
from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class LossShareHook(Hook):
    """Adds ``share_<term>`` for every ``loss_<term>`` of a detector, ours or mmdet's, wherever losses are logged.

    The share is that of the means over the log's window, which stand in the same line: ``loss_cls`` over the sum of
    all terms, from 0 to 1. It is reckoned from numbers the log holds already, where ``LoggerHook`` writes alone, so a
    device is not waited for. A term may be negative, as mmdet's ``SIoULoss`` is by default; its share is so too, and
    the shares' absolute values sum to 1. Where every term is 0, so is every share.
    """

    # after RuntimeInfoHook, which notes the losses, before LoggerHook
    priority = 'NORMAL'

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        if not is_logged(runner, batch_idx):
            return
        # not the terms of the history: a model that is loaded may have had others
        terms = [name for name in outputs or () if 'loss' in name and name != 'loss']
        window, hub = runner.log_processor.window_size, runner.message_hub
        means = {name: float(hub.get_scalar(f'train/{name}').mean(window)) for name in terms}
        for name, share in shares(means).items():
            hub.update_scalar(f'train/{share_name(name)}', share)


def shares(terms: Mapping[str, float]) -> dict[str, float]:
    """Each term over the sum of all; of the absolute values, which is the same where none is negative.

    >>> shares({'loss_cls': 1.0, 'loss_bbox': 3.0})
    {'loss_cls': 0.25, 'loss_bbox': 0.75}
    """
    total = sum(abs(value) for value in terms.values())
    return {name: value / total if total else 0.0 for name, value in terms.items()}


def share_name(term: str) -> str:
    """``loss_cls`` -> ``share_cls``, ``d0.loss_cls`` -> ``share_d0.cls``.

    No "loss" is left in it: the log would show the mean over the window, in place of the last value.
    """
    return 'share_' + re.sub('loss_?', '', term).rstrip('_')
