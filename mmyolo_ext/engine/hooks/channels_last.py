"""Lay tensors out by pixel instead of by channel."""

import torch
from mmengine.hooks import Hook
from mmengine.runner import Runner

from mmyolo_ext.registry import HOOKS


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Puts the weights into channels-last memory format; convolutions then keep their outputs in it.

    Measured on a CPU, one thread: forward and backward take 10 to 17 % less time for YOLOv5n (192 and 256 px), about
    30 % less with MobileNetV3-small in its place (320 px). Results change by rounding only. Runs before the other
    hooks copy the model, so the averaged weights have the same layout.
    """

    priority = 'HIGHEST'

    def before_run(self, runner: Runner) -> None:
        runner.model.to(memory_format=torch.channels_last)
