"""Whole steps against bare ones: the arithmetic, with a fake clock, and the bare step itself."""

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.logging import MessageHub
from torch import nn
from torch.utils.data import DataLoader

sys.path.insert(0, str(Path(__file__).parents[2] / 'benchmarks'))

import step
import training


class Clock:
    """A clock that the test sets."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def spend(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(training, 'now', clock)
    return clock


def test_the_spread_of_repeats() -> None:
    # 3, 1, 2, 9, 4 s for four steps: 750, 250, 500, 2250, 1000 ms; (2250 - 250) / 750 = 2.667
    assert training.spread_ms([3, 1, 2, 9, 4], 4) == {
        'median_ms': 750,
        'min_ms': 250,
        'max_ms': 2250,
        'spread': 2.667,
        'repeats': 5,
        'runs': 4,
    }


def test_an_epoch_is_held_against_the_bare_ones_around_it() -> None:
    # the machine slows down threefold and recovers; means around the epochs: 3, 5, 5, 3, 3
    figures = training._compare(
        epochs=[6, 5, 15, 3, 6], bares=[2, 4, 6, 4, 2, 4], matmuls=[3, 1, 2, 5, 9, 4], steps=2, images=12
    )
    # 6/3, 5/5, 15/5, 3/3, 6/3; the medians' quotient would be 6/4
    assert figures['ratio'] == {'median': 2, 'min': 1, 'max': 3}
    assert (figures['median_ms'], figures['bare']['median_ms']) == (3000, 2000)
    assert figures['bare']['min_ms'] == 1000 and figures['bare']['repeats'] == 6
    # 12 images in the median's 6 s; (3 + 4) / 2
    assert (figures['images_per_second'], figures['matmul_ms']) == (2, 3.5)
    assert (figures['steps'], figures['images'], figures['repeats']) == (2, 12, 5)
    with pytest.raises(ValueError, match='zip'):  # an epoch without a bare one after it
        training._compare([6, 5], [2, 4], [1], 2, 12)


class Spend(torch.autograd.Function):
    """Takes time in the backward pass."""

    @staticmethod
    def forward(ctx: Any, values: torch.Tensor, spend: Any) -> torch.Tensor:
        ctx.spend = spend
        return values.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        ctx.spend()
        return gradient, None


def pretended_runner(clock: Clock) -> SimpleNamespace:
    """Each part takes a different power of two, so that a sum shows its parts."""

    def takes(seconds: float) -> Any:
        return lambda *args, **kwargs: clock.spend(seconds)

    class Average(EMAHook):
        __init__ = Hook.__init__
        after_train_iter = takes(4)

    class Checkpoint(CheckpointHook):
        __init__ = Hook.__init__
        after_train_iter = takes(0)
        after_train_epoch = takes(8)

    class Other(Hook):
        after_train_iter = takes(16)
        after_train_epoch = takes(32)

    class Preprocessor(nn.Module):
        forward = takes(1)

    hooks = [Average(), Checkpoint(), Other()]
    return SimpleNamespace(
        hooks=hooks,
        call_hook=lambda name: [getattr(hook, name)(None) for hook in hooks],
        optim_wrapper=SimpleNamespace(backward=lambda loss, **kwargs: loss.backward()),
        model=SimpleNamespace(
            data_preprocessor=Preprocessor(),
            bbox_head=SimpleNamespace(
                loss_by_feat=takes(2), convs_pred=nn.ModuleList(nn.Conv2d(2, 3, 1) for _ in range(2))
            ),
        ),
    )


def test_the_parts_of_a_step(clock: Clock) -> None:
    runner = pretended_runner(clock)
    probes = training.Probes(runner)
    model = runner.model
    for _ in range(2):  # an epoch of two steps
        model.data_preprocessor({})
        feats = Spend.apply(torch.ones(1, 2, 4, 4, requires_grad=True), lambda: clock.spend(1024))
        # backward: 64 s until the last level has its gradient, then 256 for the next one, then the network's
        maps = [
            Spend.apply(convolution(feats), lambda seconds=seconds: clock.spend(seconds))
            for convolution, seconds in zip(model.bbox_head.convs_pred, (256, 64), strict=True)
        ]
        model.bbox_head.loss_by_feat(maps)
        clock.spend(2048)  # the optimizer's, which is bare work too
        runner.optim_wrapper.backward(sum(level.sum() for level in maps))
        runner.call_hook('after_train_iter')
    runner.call_hook('after_train_epoch')
    # two steps: 2 * 1 / 2 s, 2 * 2 / 2, 2 * 64 / 2, 2 * 4 / 2, 8 / 2, (2 * 16 + 32) / 2
    assert probes.parts_ms(2) == {
        'preprocess': 1000,
        'loss': 2000,
        'loss, backward': 64000,
        'EMA': 4000,
        'checkpoint': 4000,
        'other hooks': 32000,
    }
    assert clock() == 2 * (1 + 2 + 2048 + 64 + 256 + 1024 + 4 + 16) + 8 + 32


SHAPES = [torch.Size((4, 3, 32, 32)), torch.Size((2, 3, 32, 64))]


class PretendedLoop(training.AlternatingLoop):
    """The first epoch, a warm-up, takes 100 s, the last two 7 s."""

    def __init__(self, runner: Any, clock: Clock) -> None:
        super().__init__(runner, DataLoader([0, 1]), repeats=5)
        self._clock, self._seconds = clock, iter([100, 6, 5, 15, 3, 6, 7, 7])

    def run_epoch(self) -> None:
        self.runner.call_hook('epoch')
        seconds = next(self._seconds)
        for shape in SHAPES:
            self.runner.model.data_preprocessor(shape)
            self.runner.message_hub.update_scalar('train/data_time', 0.25 if seconds == 7 else 9.0)
        self._clock.spend(seconds)


def test_bare_steps_stand_before_and_after_each_epoch(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    class Preprocessor(nn.Module):
        def forward(self, shape: torch.Size) -> dict:
            clock.spend(0.5)
            return {'inputs': torch.empty(shape)}

    class Bare:
        seconds = iter([100, 2, 4, 6, 4, 2, 4])

        def __init__(self, runner: Any, shapes: list[torch.Size]) -> None:
            assert shapes == SHAPES
            self.inputs = [torch.empty(shape) for shape in shapes]

        def run(self) -> None:
            order.append('bare')
            clock.spend(next(self.seconds))

    def matmul_ms() -> float:
        clock.spend(1000)
        return 12.0

    monkeypatch.setattr(training, 'Bare', Bare)
    monkeypatch.setattr(training, '_matmul_ms', matmul_ms)
    runner, order = pretended_runner(clock), []
    runner.model.data_preprocessor = Preprocessor()
    runner.message_hub = MessageHub.get_instance('bare steps')
    runner.call_hook = order.append
    loop = PretendedLoop(runner, clock)
    loop.run()
    counted = ['bare', *['epoch', 'bare'] * 5]
    assert order == ['before_train', 'epoch', 'bare', *counted, 'epoch', 'epoch', 'after_train']
    figures = loop.figures
    # preprocessing takes 0.5 s a step besides: epochs of 7, 6, 16, 4, 7 s against 3, 5, 5, 3, 3
    assert figures['ratio'] == {'median': round(7 / 3, 4), 'min': 1.2, 'max': 3.2}
    assert (figures['steps'], figures['images'], figures['repeats']) == (2, 6, 5)
    assert figures['images_per_second'] == round(6 / 7, 2) and figures['matmul_ms'] == 12
    # of the last two epochs alone: 4 steps of 0.25 s and 0.5 s
    assert figures['parts_ms'] == {'waiting for data': 250, 'preprocess': 500, 'other hooks': 0}


class Head(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(4, 2, 1)

    def forward(self, feats: torch.Tensor) -> tuple[list[torch.Tensor]]:
        return ([self.convolution(feats)],)


class Network(nn.Module):
    """One level; ``seen`` are the inputs and the precision of each step."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.bbox_head, self.seen = nn.Conv2d(3, 4, 3, padding=1), Head(), []

    def extract_feat(self, inputs: torch.Tensor) -> torch.Tensor:
        feats = self.first(inputs)
        self.seen.append((inputs.is_contiguous(memory_format=torch.channels_last), tuple(inputs.shape), feats.dtype))
        return feats


@pytest.mark.parametrize('layout', [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize(
    ('wrapper', 'precision'),
    [('YOLOOptimWrapper', torch.float32), ('YOLOAmpOptimWrapper', torch.bfloat16)],  # what amp is on a CPU
)
@pytest.mark.parametrize(('counts', 'updates'), [(1, 5), (2, 3)])  # after 2, 4 and the last
def test_bare_steps_follow_the_runner(layout, wrapper, precision, counts, updates) -> None:
    network = Network().to(memory_format=layout)
    before = {name: weight.clone() for name, weight in network.state_dict().items()}
    settings = {'type': f'mmyolo_ext.{wrapper}', 'optimizer': {'type': 'SGD', 'lr': 1.0}}
    if precision == torch.bfloat16:
        settings['dtype'] = 'bfloat16'
    runner = SimpleNamespace(
        model=network,
        hooks=[],
        cfg=Config({'optim_wrapper': settings}),
        optim_wrapper=SimpleNamespace(accumulative_counts=counts),
    )
    shapes = [torch.Size((2, 3, 4, 6)), torch.Size((2, 3, 8, 8))] * 2 + [torch.Size((2, 3, 4, 6))]
    bare = training.Bare(runner, shapes)
    steps = []
    bare.wrapper.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    for _ in range(2):
        bare.run()
    assert len(steps) == 2 * updates
    expected = [(layout == torch.channels_last, tuple(shape), precision) for shape in shapes]
    assert bare.network.seen == expected * 2
    # on a copy
    assert network.seen == [] and all(torch.equal(before[name], weight) for name, weight in network.named_parameters())
    assert not torch.equal(bare.network.bbox_head.convolution.bias, network.bbox_head.convolution.bias)


def test_the_mean_of_the_maps_fills_every_gradient() -> None:
    # the last bias gets 1 / channels from each level's mean; at rate 1 it goes down by as much each step
    settings = {'type': 'mmyolo_ext.YOLOOptimWrapper', 'optimizer': {'type': 'SGD', 'lr': 1.0}}
    network = Network()
    runner = SimpleNamespace(
        model=network,
        hooks=[],
        cfg=Config({'optim_wrapper': settings}),
        optim_wrapper=SimpleNamespace(accumulative_counts=2),
    )
    bare = training.Bare(runner, [torch.Size((2, 3, 4, 6))] * 3)
    bare.run()
    # three iterations in two steps, sums of gradients: 3 * 1/2 for each of 2 channels
    assert torch.allclose(
        network.bbox_head.convolution.bias - bare.network.bbox_head.convolution.bias, torch.tensor([1.5, 1.5])
    )


def test_a_real_epoch_of_ready_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    bares, kept = [], training.Bare

    def bare(*args: Any) -> training.Bare:
        bares.append(kept(*args))
        return bares[0]

    monkeypatch.setattr(training, 'Bare', bare)
    monkeypatch.setattr(training, '_matmul_ms', lambda: 12.0)
    cfg = step.step_config('n', 64, images=2, steps=3)
    cfg.default_hooks.accumulate.nominal_batch_size = 4
    figures = step.measure_case(cfg, 'float32', 'channels-last', None, repeats=5)
    assert (figures['steps'], figures['images'], figures['repeats']) == (3, 6, 5)
    assert figures['images_per_second'] == pytest.approx(2e3 / figures['median_ms'], rel=0.01)
    assert list(figures['parts_ms'])[0] == 'waiting for data'
    assert {'preprocess', 'loss', 'loss, backward', 'EMA', 'other hooks'} <= figures['parts_ms'].keys()
    assert sum(figures['parts_ms'].values()) < figures['max_ms'] * 2
    (bare,) = bares
    assert bare.counts == 2 and [tuple(inputs.shape) for inputs in bare.inputs] == [(2, 3, 64, 64)] * 3
    assert bare.inputs[0].is_contiguous(memory_format=torch.channels_last)
