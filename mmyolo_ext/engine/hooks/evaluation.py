"""Hooks of validation and test: eager evaluation, fused batch norms, timing."""

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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

WAITING, PREPROCESSING, NETWORK, BOXES, METRIC = (
    'waiting for data',
    'preprocessing',
    'network',
    'decoding, NMS',
    'metric, hooks',
)
TOGETHER = 'network with NMS'
# of heads, of our heads where their maps stay in one piece, of models that see several views
TO_BOXES = ('predict_by_feat', '_detect', 'merge_preds')


@HOOKS.register_module()
class TestTimeHook(Hook):
    """Logs, when a test ends, a table of milliseconds a picture: data, network, suppression, and pictures a second.

    *decoding, NMS* is what the heads, ours and mmdet's, take from the maps of the network to boxes on the picture; of
    two stages both, and of several views their merging. A model whose heads have no ``predict_by_feat`` gets the row
    *network with NMS*. The first batches, in which a device warms up and workers start, do not count. A GPU is waited
    for at the ends of every part, so the sum is a little more than a test without this hook takes.

    Args:
        warmup: Batches at the start that do not count; fewer where the test has no more.
    """

    __test__ = False  # pytest takes names with Test for its own
    # before_test_iter after all others, after_test_iter too, so that what they do is not taken for waiting
    priority = 'LOWEST'

    def __init__(self, warmup: int = 2) -> None:
        if warmup < 0:
            raise ValueError(f'warmup must be at least 0, got {warmup}')
        self.warmup = warmup

    def before_test_epoch(self, runner: Runner) -> None:
        self._device = next(runner.model.parameters()).device
        self._clock = Clock(self._device)
        self._undo = [self._clock.wrap(runner.model, 'test_step', 'step')]
        for module in runner.model.modules():
            if isinstance(module, BaseDataPreprocessor):
                self._undo.append(self._clock.wrap(module, 'forward', PREPROCESSING))
            self._undo += [self._clock.wrap(module, name, BOXES) for name in TO_BOXES if hasattr(module, name)]
        self._skipped = self._pictures = self._batches = 0
        self._last = self._clock.now()

    def before_test_iter(self, runner: Runner, *args, **kwargs) -> None:
        start = self._clock.now()
        self._clock.seconds[WAITING] += start - self._last
        self._started = start

    def after_test_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Sequence | None = None
    ) -> None:
        self._last = self._clock.now()
        self._clock.seconds['iteration'] += self._last - self._started
        if batch_idx < min(self.warmup, len(runner.test_dataloader) - 1):
            self._skipped += len(outputs)
            self._clock.seconds.clear()
            return
        self._pictures += len(outputs)
        self._batches += 1

    def after_test_epoch(self, runner: Runner, metrics: Mapping | None = None) -> None:
        for undo in self._undo:
            undo()
        if not self._pictures:
            return
        evaluation = self._clock.now() - self._last
        #: milliseconds a picture of each part
        self.parts_ms = {name: seconds * 1e3 / self._pictures for name, seconds in split(self._clock.seconds).items()}
        where = self._device.type
        where += f', {torch.get_num_threads()} threads' if where == 'cpu' else ''
        runner.logger.info(
            f'Time of {self._pictures} pictures in {self._batches} batches, after {self._skipped} pictures to warm up '
            f'({where}):\n{time_table(self.parts_ms)}\n  The metric at the end took {evaluation:.2f} s.'
        )


class Clock:
    """Seconds spent in methods, by name; of calls inside calls of one name the outer counts."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: Counter[str] = Counter()
        self._device = device
        self._running: set[str] = set()

    def now(self) -> float:
        """Seconds, when the device has done what it was given."""
        if self._device.type == 'cuda':
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def wrap(self, owner: nn.Module, method: str, name: str) -> Callable[[], None]:
        """Count what ``owner.method`` takes under ``name``, until the function returned is called."""
        inner = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if name in self._running:
                return inner(*args, **kwargs)
            self._running.add(name)
            start = self.now()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[name] += self.now() - start
                self._running.discard(name)

        setattr(owner, method, timed)
        return lambda: delattr(owner, method)


def split(seconds: Mapping[str, float]) -> dict[str, float]:
    """Of what was counted, parts that add up to the whole."""
    inside = {PREPROCESSING: seconds.get(PREPROCESSING, 0.0), BOXES: seconds.get(BOXES, 0.0)}
    network = seconds['step'] - sum(inside.values())
    parts = {WAITING: seconds[WAITING], PREPROCESSING: inside[PREPROCESSING]}
    parts |= {NETWORK: network, BOXES: inside[BOXES]} if inside[BOXES] else {TOGETHER: network}
    return {**parts, METRIC: seconds['iteration'] - seconds['step']}


def time_table(parts_ms: Mapping[str, float]) -> str:
    """A line for each part and one for all: milliseconds a picture, share, pictures a second."""
    whole = sum(parts_ms.values())
    rows = [(name, value, '') for name, value in parts_ms.items()]
    rows.append(('all', whole, f'   {1e3 / whole:.1f} images/s'))
    width = max(len(name) for name, *_ in rows)
    lines = [f'  {name:<{width}}  {value:9.3f} ms  {value / whole:5.1%}{more}' for name, value, more in rows]
    return '\n'.join(lines)


@HOOKS.register_module()
class FuseHook(Hook):
    """While a test runs, a fused copy takes the model's place: the same figures up to rounding, in less time.

    A copy, for the model may be trained further, and an average of weights is put back into it after the test.
    """

    # after an average of weights has taken its place in the model, before the hook that takes times
    priority = 'LOW'

    def before_test_epoch(self, runner: Runner) -> None:
        self._model = runner.model
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        runner.model = fuse_conv_bn(revert_sync_batchnorm(deepcopy(model)).eval())

    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        runner.model = self._model


@HOOKS.register_module()
class EagerEvaluationHook(Hook):
    """Suspends ``torch.compile`` while a run validates or tests, and checks its compiler before the first step.

    Images of validation and tests have many sizes, and each would be compiled anew. :class:`mmyolo_ext.Runner` adds
    the hook where the config has ``compile_parts``.

    Args:
        backend: Of ``torch.compile``.
    """

    def __init__(self, backend: str = 'inductor') -> None:
        self.backend = backend

    def before_train(self, runner: Runner) -> None:
        model = runner.model.module if is_model_wrapper(runner.model) else runner.model
        if self.backend == 'inductor':
            check_compiler(next(model.parameters()).device.type)
        runner.logger.info(f'torch.compile ({self.backend}) compiles parts of the model: the first steps take long.')

    def before_val(self, runner: Runner) -> None:
        _set_stance('force_eager')

    def after_val(self, runner: Runner) -> None:
        _set_stance('default')

    def before_test(self, runner: Runner) -> None:
        _set_stance('force_eager')

    def after_test(self, runner: Runner) -> None:
        _set_stance('default')


def _set_stance(stance: str) -> None:
    if hasattr(torch.compiler, 'set_stance'):  # since PyTorch 2.6; before, evaluation is compiled too
        torch.compiler.set_stance(stance)
