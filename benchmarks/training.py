"""Whole training steps against bare ones: the same network, optimizer and shapes, alternating in one process.

*Bare*: forward, backward and optimizer step on tensors that are in memory already, the predictions reduced by their
mean, whose gradient fills every map of the head. *Training*: an epoch of MMEngine's loop with its loader,
preprocessing, losses, hooks and log. Bare steps run before and after each epoch, so other load slows both.
"""

import copy
import os
import statistics
import time
from collections import Counter
from typing import Any

import torch
from machine import calibrate
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.optim import build_optim_wrapper
from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop
from torch import nn

from mmyolo_ext.cli.common import keep_freed_memory
from mmyolo_ext.engine.prepare_model import compile_parts
from mmyolo_ext.engine.runner import Runner

LEAST_REPEATS, PROBED = 5, 2


class Bare:
    """The bare steps of an epoch on a copy of a runner's network, in its precision, layout and rhythm of steps."""

    def __init__(self, runner: Runner, shapes: list[torch.Size]) -> None:
        self.network = copy.deepcopy(runner.model).train()
        if runner.cfg.get('compile_parts'):
            compile_parts(self.network, **runner.cfg.compile_parts)
        self.wrapper = build_optim_wrapper(self.network, copy.deepcopy(runner.cfg.optim_wrapper))
        self.counts = runner.optim_wrapper.accumulative_counts
        like = next(weight for weight in self.network.parameters() if weight.dim() == 4 and weight.shape[1] > 1)
        layout = torch.channels_last if like.is_contiguous(memory_format=torch.channels_last) else None
        random = {
            shape: torch.rand(shape, device=like.device).contiguous(memory_format=layout or torch.contiguous_format)
            for shape in dict.fromkeys(shapes)
        }
        self.inputs = [random[shape] for shape in shapes]

    def run(self) -> None:
        """As many steps, of the same shapes, as the epoch has."""
        self.wrapper.begin_epoch(self.counts, len(self.inputs))
        for inputs in self.inputs:
            with self.wrapper.optim_context(self.network):
                feats = self.network.extract_feat(inputs)
                loss = sum(level.float().mean() for level in self.network.bbox_head(feats)[0])
            self.wrapper.update_params(loss)


class Probes:
    """Seconds spent inside the parts of a step; the device is waited for at both ends of each."""

    def __init__(self, runner: Runner) -> None:
        self.seconds: Counter[str] = Counter()
        model = runner.model
        self._wrap(model.data_preprocessor, 'forward', 'preprocess')
        self._wrap(model.bbox_head, 'loss_by_feat', 'loss')
        self._time_loss_backward(runner, model.bbox_head.convs_pred)
        for hook in runner.hooks:
            if isinstance(hook, EMAHook):
                self._wrap(hook, 'after_train_iter', 'EMA')
            elif isinstance(hook, CheckpointHook):
                self._wrap(hook, 'after_train_epoch', 'checkpoint')
        self._wrap(runner, 'call_hook', 'hooks')

    def _wrap(self, owner: Any, method: str, name: str) -> None:
        inner = getattr(owner, method)

        def timed(*args, **kwargs):
            start = now()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] += now() - start

        setattr(owner, method, timed)

    def _time_loss_backward(self, runner: Runner, convolutions: nn.ModuleList) -> None:
        """From the start of the backward pass to the first gradient of a map."""
        inner, started = runner.optim_wrapper.backward, []

        def backward(loss, **kwargs):
            started[:] = [now()]
            inner(loss, **kwargs)

        def reached(*_):
            if started:
                self.seconds['loss, backward'] += now() - started.pop()

        runner.optim_wrapper.backward = backward
        for convolution in convolutions:
            convolution.register_full_backward_pre_hook(reached)

    def parts_ms(self, steps: int) -> dict[str, float]:
        """Milliseconds a step."""
        seconds = dict(self.seconds)
        seconds['other hooks'] = seconds.pop('hooks') - seconds.get('EMA', 0) - seconds.get('checkpoint', 0)
        return {name: round(value * 1e3 / steps, 3) for name, value in seconds.items()}


@LOOPS.register_module()
class AlternatingLoop(EpochBasedTrainLoop):
    """Epochs with bare ones between them; ``figures`` tell what both took.

    Args:
        repeats: epochs that count, after one that does not; two more follow, in which the parts are timed.
    """

    def __init__(self, runner: Runner, dataloader: Any, repeats: int, **kwargs) -> None:
        super().__init__(runner, dataloader, max_epochs=1 + repeats + PROBED, **kwargs)
        self.repeats = repeats

    def run(self) -> nn.Module:
        """Train, and keep ``figures``."""
        self.runner.call_hook('before_train')
        bare = Bare(self.runner, self._shapes_of_an_epoch())
        bare.run()
        matmuls, bares, epochs = [_matmul_ms()], [_seconds(bare.run)], []
        for _ in range(self.repeats):
            epochs.append(_seconds(self.run_epoch))
            bares.append(_seconds(bare.run))
            matmuls.append(_matmul_ms())
        steps = len(bare.inputs)
        images = sum(len(inputs) for inputs in bare.inputs)
        self.figures = _compare(epochs, bares, matmuls, steps, images)
        self.figures['parts_ms'] = self._parts_ms(steps)
        self.runner.call_hook('after_train')
        return self.runner.model

    def _shapes_of_an_epoch(self) -> list[torch.Size]:
        shapes = []
        handle = self.runner.model.data_preprocessor.register_forward_hook(
            lambda module, args, output: shapes.append(output['inputs'].shape)
        )
        self.run_epoch()
        handle.remove()
        return shapes

    def _parts_ms(self, steps: int) -> dict[str, float]:
        probes = Probes(self.runner)
        for _ in range(PROBED):
            self.run_epoch()
        waits = self.runner.message_hub.get_scalar('train/data_time').data[0][-PROBED * steps :]
        return {'waiting for data': round(waits.mean() * 1e3, 3), **probes.parts_ms(PROBED * steps)}


def alternate(cfg: Config, repeats: int) -> dict[str, Any]:
    """Train by ``cfg`` without validation; the figures of :class:`AlternatingLoop`."""
    keep_freed_memory()  # as tools/train.py does, for the bare steps too
    cfg.train_cfg = {'type': 'AlternatingLoop', 'repeats': repeats}
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    cfg.test_cfg = cfg.test_dataloader = cfg.test_evaluator = None
    cfg.experiment_name = f'{os.getpid()}_{time.monotonic_ns()}'
    runner = Runner.from_cfg(cfg)
    runner.train()
    return runner.train_loop.figures


def now() -> float:
    """Seconds, once the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def choose_device(name: str) -> None:
    """``auto`` takes a GPU if there is one; MMEngine asks torch, so ``cpu`` hides it.

    Raises:
        ValueError: ``cuda`` where torch sees no GPU.
    """
    if name == 'cpu':
        os.environ['CUDA_VISIBLE_DEVICES'] = ''
    elif name == 'cuda' and not torch.cuda.is_available():
        raise ValueError('--device cuda, but torch sees no GPU')


def _seconds(call: Any) -> float:
    start = now()
    call()
    return now() - start


def _matmul_ms() -> float:
    return calibrate(5)['matmul_ms']


def _compare(epochs: list[float], bares: list[float], matmuls: list[float], steps: int, images: int) -> dict[str, Any]:
    """Figures a step; an epoch is held against the mean of the bare ones before and after it."""
    around = [(before + after) / 2 for before, after in zip(bares, bares[1:], strict=False)]
    ratios = [epoch / bare for epoch, bare in zip(epochs, around, strict=True)]
    ratio = statistics.median(ratios)
    return {
        **spread_ms(epochs, steps),
        'bare': spread_ms(bares, steps),
        'ratio': {'median': round(ratio, 4), 'min': round(min(ratios), 4), 'max': round(max(ratios), 4)},
        'images_per_second': round(images / statistics.median(epochs), 2),
        'matmul_ms': round(statistics.median(matmuls), 3),
        'steps': steps,
        'images': images,
    }


def spread_ms(seconds: list[float], steps: int) -> dict[str, float]:
    """Milliseconds of one of ``steps`` steps, as :func:`machine.measure` tells them; seconds of each repeat."""
    times = [value * 1e3 / steps for value in seconds]
    median = statistics.median(times)
    return {
        'median_ms': round(median, 3),
        'min_ms': round(min(times), 3),
        'max_ms': round(max(times), 3),
        'spread': round((max(times) - min(times)) / median, 3),
        'repeats': len(times),
        'runs': steps,
    }
