"""Hooks of validation and test: eager evaluation, fused batch norms, timing."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import torch
from mmcv.cnn import fuse_conv_bn
from mmengine.hooks import Hook
from mmengine.model import BaseDataPreprocessor, is_model_wrapper, revert_sync_batchnorm
from mmengine.runner import Runner
from torch import nn

from mmyolo_ext.engine.prepare_model import check_compiler
from mmyolo_ext.registry import HOOKS

WAITING, PREPROCESSING, BOXES = 'waiting for data', 'preprocessing', 'decoding, NMS'
# methods that turn maps into boxes: of heads, and of models with test-time augmentation
TO_BOXES = ('predict_by_feat', 'merge_preds')


@HOOKS.register_module()
class EagerEvaluationHook(Hook):
    """Suspend ``torch.compile`` during validation and test, whose many image sizes would all be compiled.

    It also checks the compiler before the first step. ``mmyolo_ext.Runner`` adds this hook if the config has
    ``compile_parts``.

    Args:
        backend: Backend of ``torch.compile``.
    """

    def __init__(self, backend: str = 'inductor') -> None:
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        if self.backend == 'inductor':
            check_compiler(next(runner.model.parameters()).device.type)
        runner.logger.info(f'torch.compile ({self.backend}) compiles parts of the model: the first steps are slow.')

    def before_val(self, runner: Runner) -> None:
        if hasattr(torch.compiler, 'set_stance'):  # since PyTorch 2.6; before, evaluation is compiled too
            torch.compiler.set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        if hasattr(torch.compiler, 'set_stance'):
            torch.compiler.set_stance('default')

    before_test, after_test = before_val, after_val


@HOOKS.register_module()
class FuseHook(Hook):
    """Test with a copy of the model whose batch norms are folded into convolutions: faster, equal up to rounding."""

    priority = 'LOW'  # after EMA weights were swapped in, before TestTimeHook

    def before_test_epoch(self, runner: Runner) -> None:
        self._model = runner.model
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = fuse_conv_bn(revert_sync_batchnorm(deepcopy(model)).eval())

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        runner.model = self._model


@HOOKS.register_module()
class TestTimeHook(Hook):
    """Log, after a test, a table of the milliseconds per image spent in each part.

    *decoding, NMS* covers the heads, ours and mmdet's, from maps to boxes; both stages of a two-stage detector; and
    the merging of test-time augmentation. A model whose heads have no ``predict_by_feat`` gets a row *network with
    NMS* instead. A GPU is synchronised at the ends of every part, so the total is slightly longer than without this
    hook.

    Args:
        warmup: Number of batches at the start that do not count; at most all but one.

    Attributes:
        parts_ms: Milliseconds per image of each part, after the test.

    """

    __test__ = False  # not a test class of pytest
    priority = 'LOWEST'  # after all other hooks, so that their time does not count as waiting for data

    def __init__(self, warmup: int = 2) -> None:
        self.warmup = warmup

    def before_test_epoch(self, runner: Runner) -> None:
        self._clock = clock = Clock(next(runner.model.parameters()).device)
        clock.wrap(runner.model, 'test_step', 'step')
        for module in runner.model.modules():
            if isinstance(module, BaseDataPreprocessor):
                clock.wrap(module, 'forward', PREPROCESSING)
            for name in TO_BOXES:
                if hasattr(module, name):
                    clock.wrap(module, name, BOXES)
        self._skipped = self._images = self._batches = 0
        self._last = clock.now()

    def before_test_iter(self, runner: Runner, *args, **kwargs) -> None:
        self._started = self._clock.now()
        self._clock.seconds[WAITING] += self._started - self._last

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Sequence | None = None
    ) -> None:
        self._last = self._clock.now()
        self._clock.seconds['iteration'] += self._last - self._started
        if batch_idx < min(self.warmup, len(runner.test_dataloader) - 1):
            self._skipped += len(outputs)
            self._clock.seconds.clear()
            return
        self._images += len(outputs)
        self._batches += 1

    def after_test_epoch(self, runner: Runner, metrics: Mapping | None = None) -> None:
        for owner, method in self._clock.wrapped:
            delattr(owner, method)
        if not self._images:
            return
        evaluation = self._clock.now() - self._last
        parts = split(self._clock.seconds)
        self.parts_ms = {name: seconds * 1e3 / self._images for name, seconds in parts.items()}
        runner.logger.info(
            f'Time of {self._images} images in {self._batches} batches, after {self._skipped} images of warm-up '
            f'({self._clock.device.type}, {torch.get_num_threads()} CPU threads):\n{time_table(self.parts_ms)}\n'
            f'  The metric at the end took {evaluation:.2f} s.'
        )


class Clock:
    """Measures the seconds spent in methods, by name; of nested calls of one name only the outer counts."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        self.wrapped: list[tuple[nn.Module, str]] = []
        self.device = device
        self._running: set[str] = set()

    def now(self) -> float:
        """Return the time in seconds, after the device has finished."""
        if self.device.type == 'cuda':
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def wrap(self, owner: nn.Module, method: str, name: str) -> None:
        """Measure ``owner.method`` under ``name`` until the attribute is deleted."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if name in self._running:
                return inner(*args, **kwargs)
            self._running.add(name)
            start = self.now()
            output = inner(*args, **kwargs)
            self.seconds[name] += self.now() - start
            self._running.discard(name)
            return output

        setattr(owner, method, timed)
        self.wrapped.append((owner, method))


def split(seconds: Mapping[str, float]) -> dict[str, float]:
    """Split measured times into parts that add up to the whole."""
    preprocessing, boxes = seconds.get(PREPROCESSING, 0.0), seconds.get(BOXES, 0.0)
    network = seconds['step'] - preprocessing - boxes
    return {
        WAITING: seconds[WAITING],
        PREPROCESSING: preprocessing,
        **({'network': network, BOXES: boxes} if boxes else {'network with NMS': network}),
        'metric, hooks': seconds['iteration'] - seconds['step'],
    }


def time_table(parts_ms: Mapping[str, float]) -> str:
    """Return a line for each part and one for all: milliseconds per image, share, images per second."""
    total = sum(parts_ms.values())
    width = max(map(len, parts_ms))
    lines = [f'  {name:<{width}}  {ms:9.3f} ms  {ms / total:5.1%}' for name, ms in parts_ms.items()]
    return '\n'.join([*lines, f'  {"all":<{width}}  {total:9.3f} ms  100.0%   {1e3 / total:.1f} images/s'])
