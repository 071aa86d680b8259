"""Steps with numbers that are not finite are skipped, nothing is poisoned, and too many of them stop the training."""

import math
from pathlib import Path

import pytest
import torch
import toy_runner
from mmengine.optim import OptimWrapper
from rank_processes import run_ranks
from toy_runner import ToyDataset, ToyModel

from mmyolo_ext.checkpoint.safe_load import non_finite_names
from mmyolo_ext.engine import step_guard
from mmyolo_ext.engine.non_finite import diagnose, load_state, read_dump
from mmyolo_ext.engine.step_guard import NonFiniteError, StepGuard

LR, BATCH = 0.01, 2
HOOKS = ({'type': 'mmyolo_ext.SampleSeedHook'}, {'type': 'mmyolo_ext.StepEMAHook'})


class FaultyDataset(ToyDataset):
    """Samples times NaN, or another factor, at some places of every epoch."""

    def __init__(self, faulty=(), factor=math.nan, **kwargs) -> None:
        super().__init__(**kwargs)
        self.faulty, self.factor = faulty, factor

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        sample = super().__getitem__(index)
        return {'x': sample['x'] * self.factor} if index in self.faulty else sample


@pytest.fixture
def train(monkeypatch, tmp_path):
    """Train the toy in order, without schedules; the runner comes back, however it ended, with ``error``."""

    def run(
        faulty=(), factor=math.nan, max_skips=5, accumulate=1, max_epochs=1, model=None, optim_wrapper=None, guard=True
    ):
        wrapper = optim_wrapper or {
            'type': 'mmyolo_ext.YOLOOptimWrapper',
            'optimizer': {'type': 'SGD', 'lr': LR, 'momentum': 0.9},
        }
        hooks = [*HOOKS]
        if optim_wrapper is None:
            hooks.append({'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': BATCH * accumulate})
        runner = toy_runner.toy_runner(
            tmp_path / str(len(list(tmp_path.iterdir()))),
            model=model,
            max_epochs=max_epochs,
            hooks=hooks,
            optim_wrapper=wrapper,
            param_scheduler=None,
            train_dataloader={
                'dataset': FaultyDataset(faulty, factor),
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'batch_size': BATCH,
                'collate_fn': {'type': 'default_collate'},
            },
            config={'step_guard': {'max_skips': max_skips}},
        )
        runner.error = None
        if not guard:
            monkeypatch.setattr(StepGuard, 'attach', lambda self, runner: None)
        try:
            runner.train()
        except NonFiniteError as error:
            runner.error = str(error)
        return runner

    return run


def expected(groups: list[list[int]], without: set[int]) -> tuple[ToyModel, dict[str, torch.Tensor]]:
    """Model and EMA after steps on groups of batches of epoch 0, those ``without`` left out; plain PyTorch."""
    model, data = ToyModel(), FaultyDataset()
    data.set_epoch(0, 0)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=0.9)
    ema: dict[str, torch.Tensor] = {}
    steps = 0
    for number, group in enumerate(groups):
        if number in without:
            continue
        for batch in group:
            x = torch.stack([data[BATCH * batch + place]['x'] for place in range(BATCH)])
            model(x)['loss'].backward()
        optimizer.step()
        optimizer.zero_grad()
        weight = 1 if steps == 0 else (1 - 1e-4) * math.exp(-(1 + steps) / 2000) + 1e-4
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                ema[name] = value.clone() if steps == 0 else ema[name].lerp(value, weight)
        steps += 1
    return model, ema


def ema_of(runner) -> dict[str, torch.Tensor]:
    hook = next(hook for hook in runner.hooks if hasattr(hook, 'ema_model'))
    return hook.ema_model.module.state_dict()


def assert_same(found: dict, wanted: dict) -> None:
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-6, atol=1e-7, msg=name)


# five batches of two samples; sample 4 is in batch 2
@pytest.mark.parametrize(
    ('accumulate', 'groups', 'skipped'),
    [(1, [[0], [1], [2], [3], [4]], {2}), (2, [[0, 1], [2, 3], [4]], {1})],
    ids=['each batch', 'two batches a step'],
)
def test_a_skipped_step_leaves_everything_as_if_its_batches_had_not_been(train, accumulate, groups, skipped):
    runner = train(faulty=(4,), accumulate=accumulate)
    model, ema = expected(groups, skipped)
    assert runner.error is None and runner.iter == 5
    assert_same(runner.model.state_dict(), model.state_dict())
    assert_same(ema_of(runner), ema)
    saved = torch.load(Path(runner.work_dir) / 'epoch_1.pth', weights_only=True)
    assert non_finite_names({key: saved[key] for key in ('state_dict', 'ema_state_dict', 'optimizer')}) == []
    assert_same(saved['state_dict'], ema)  # what is deployed


def test_without_the_guard_the_same_batch_poisons_everything(train, monkeypatch):
    with pytest.raises((SystemExit, ValueError)) as ended:  # the checkpoint is refused
        train(faulty=(4,), guard=False)
    assert 'NaN' in str(ended.value)


class Detached(ToyModel):
    """A running statistic that the loss does not depend on, and that a sample can poison."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer('statistic', torch.zeros(()))
        self.register_buffer('mask', torch.tensor([0.0, -math.inf]), persistent=False)  # no fault of a batch

    def forward(self, x, mode='loss'):
        self.statistic += x.detach().sum()
        return super().forward(x.nan_to_num(0.5), mode)


def test_a_poisoned_buffer_is_put_back_though_the_gradients_are_finite(train):
    runner = train(faulty=(4,), model=Detached())
    data = FaultyDataset()
    data.set_epoch(0, 0)
    good = sum(data[index]['x'].sum() for index in range(10) if index not in (4, 5))
    assert runner.model.statistic.item() == pytest.approx(good.item(), abs=1e-5)
    assert int(runner.model.norm.num_batches_tracked) == 4


@pytest.mark.parametrize(('faulty', 'max_skips', 'stopped_at'), [((4,), 0, 3), ((2, 4), 1, 3), ((0, 4, 8), 1, None)])
def test_only_skips_in_a_row_are_counted(train, faulty, max_skips, stopped_at):
    runner = train(faulty=faulty, max_skips=max_skips)
    assert (runner.error is None) == (stopped_at is None)
    if stopped_at:
        assert f'iteration {stopped_at} ' in runner.error and runner.iter == stopped_at - 1


def test_the_error_names_the_place_and_its_dump_replays(train):
    runner = train(faulty=(4,), max_skips=0)
    assert '\n' not in runner.error
    for part in ('epoch 1, iteration 3', 'loss is nan', 'data_preprocessor', 'AMP scale: none', 'tools/replay.py'):
        assert part in runner.error
    # the weights are those after two steps, and a checkpoint of them is there
    model, ema = expected([[0], [1]], set())
    assert_same(runner.model.state_dict(), model.state_dict())
    saved = torch.load(Path(runner.work_dir) / 'iter_2.pth', weights_only=True)
    assert saved['meta']['iter'] == 2
    assert_same(saved['state_dict'], ema)
    assert str(Path(runner.work_dir) / 'iter_2.pth') in runner.error

    iteration, dump = read_dump(Path(runner.work_dir) / 'non_finite_iter_3.pth')
    again = ToyModel()
    load_state(again, dump['model'])
    assert_same(again.state_dict(), model.state_dict())
    found = diagnose(again, iteration)
    assert math.isnan(found['losses']['loss']) and (found['layer'], found['stage']) == ('data_preprocessor', 'output')
    assert dump['seed'] == 0 and dump['iteration'] == 2


class RootOfZero(ToyModel):
    """Adds the length of a vector, whose gradient is 0 / 0 where the vector is 0."""

    def forward(self, x, mode='loss'):
        without_bias = self.conv(x[:, None]) - self.conv.bias[:, None]
        return {**super().forward(x, mode), 'loss_root': without_bias.pow(2).sum().sqrt()}


def test_a_gradient_that_is_not_finite_names_the_layer(train):
    runner = train(faulty=(4, 5), factor=0.0, max_skips=0, model=RootOfZero())
    assert 'all losses are finite; the first gradient that is not finite is that of conv;' in runner.error


class Inverse(torch.nn.Module):
    """A module with two outputs, of which the second is infinite where the input is 0."""

    def forward(self, x):
        return x, 1 / x.abs()


class WithInverse(ToyModel):
    """Adds the mean of an inverse times a parameter to the loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inverse = Inverse()

    def forward(self, x, mode='loss'):
        return {**super().forward(x, mode), 'loss_inverse': (self.inverse(x)[1] * self.linear.bias).mean()}


def test_one_of_several_outputs_that_is_not_finite_names_the_module(train):
    runner = train(faulty=(4, 5), factor=0.0, max_skips=0, model=WithInverse())
    assert 'the first output that is not finite is that of inverse' in runner.error


def test_mmengines_wrapper_is_guarded_as_well(train):
    wrapper = {'type': OptimWrapper, 'optimizer': {'type': 'SGD', 'lr': LR, 'momentum': 0.9}}
    runner = train(faulty=(4,), optim_wrapper=wrapper)
    assert_same(runner.model.state_dict(), expected([[0], [1], [2], [3], [4]], {2})[0].state_dict())


class Arrived:
    """Stands in for an event of a GPU."""

    waited = 0

    def synchronize(self) -> None:
        Arrived.waited += 1


def test_a_decision_on_the_device_is_read_one_step_later(train, monkeypatch):
    # as on a GPU: a tensor makes the fused optimizer do nothing, and buffers are chosen by torch.where
    def on_device(self, flag, buffers, kwargs):
        self._step_on_device(flag, [], buffers, kwargs)

    monkeypatch.setattr(StepGuard, '_step_on_host', on_device)
    monkeypatch.setattr(step_guard, '_send_to_host', lambda flag: (flag, Arrived()))
    wrapper = {
        'type': 'mmyolo_ext.YOLOOptimWrapper',
        'optimizer': {'type': 'SGD', 'lr': LR, 'momentum': 0.9, 'fused': True},
    }
    runner = train(faulty=(4,), optim_wrapper=wrapper)
    assert_same(runner.model.state_dict(), expected([[0], [1], [2], [3], [4]], {2})[0].state_dict())
    assert Arrived.waited == 5
    runner = train(faulty=(4,), optim_wrapper=wrapper, max_skips=0)
    assert 'iteration 3 ' in runner.error and runner.iter == 3  # the fourth step was taken meanwhile
    assert_same(runner.model.state_dict(), expected([[0], [1], [2], [3]], {2})[0].state_dict())


@pytest.mark.parametrize('value', [-1, 1.5, '3'])
def test_limits_that_make_no_sense_are_refused(value):
    with pytest.raises(ValueError, match='max_skips'):
        StepGuard(value)


def train_with_nan_on_rank_1(folder: Path) -> dict[int, dict]:
    """Return the weights and the error of a training for each ``max_skips``."""
    found = {}
    for max_skips in (0, 5):
        runner = toy_runner.toy_runner(
            folder / str(max_skips),
            # a buffer of rank 1 alone, where the gradients, which DDP makes alike, are finite
            model=Detached() if max_skips else None,
            max_epochs=1,
            hooks=[*HOOKS, {'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': 4}],
            param_scheduler=None,
            optim_wrapper={'type': 'mmyolo_ext.YOLOOptimWrapper', 'optimizer': {'type': 'SGD', 'lr': LR}},
            train_dataloader={
                # of the shards [0, 2, 4, ...] and [1, 3, 5, ...], sample 5 is in batch 1 of rank 1
                'dataset': FaultyDataset(faulty=(5,)),
                'sampler': {'type': 'DefaultSampler', 'shuffle': False},
                'batch_size': BATCH,
                'collate_fn': {'type': 'default_collate'},
            },
            launcher='pytorch',
            config={
                'step_guard': {'max_skips': max_skips},
                'model_wrapper_cfg': {
                    'type': 'MMDistributedDataParallel',
                    'broadcast_buffers': False,
                    'device_ids': None,
                },
            },
        )
        error = ''
        try:
            runner.train()
        except NonFiniteError as stop:
            error = str(stop)
        found[max_skips] = {'model': runner.model.module.state_dict(), 'error': error}
    return found


@pytest.mark.slow
def test_nan_on_one_rank_is_skipped_by_both(tmp_path):
    found = run_ranks(train_with_nan_on_rank_1, 2, tmp_path / 'processes', tmp_path)
    # 5 samples a rank: batches of 2, 2 and 1; the second is left out on both ranks, or ends the training
    for max_skips, batches in ((0, 1), (5, 2)):
        ranks = [rank[max_skips] for rank in found]
        assert non_finite_names(ranks) == []
        assert_same(*({name: rank['model'][name] for name in ('conv.weight', 'linear.weight')} for rank in ranks))
        assert [int(rank['model']['norm.num_batches_tracked']) for rank in ranks] == [batches] * 2
        assert bool(ranks[0]['error']) == (max_skips == 0)
        if ranks[0]['error']:
            assert ranks[0]['error'] == ranks[1]['error']
            assert 'on rank 1 at epoch 1, iteration 2' in ranks[0]['error']
            assert read_dump(tmp_path / '0' / 'non_finite_iter_2.pth')[1]['rank'] == 1


def test_the_flag_sees_a_gradient_of_any_type():
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        for value, wanted in ((1e30, 0), (math.inf, 1), (math.nan, 1)):
            flag, gradients = torch.zeros(()), [torch.ones(3), torch.tensor([0.0, value], dtype=dtype)]
            step_guard._flag_non_finite(flag, gradients, [])
            assert flag.item() == wanted, (dtype, value)
            assert torch.equal(gradients[0], torch.ones(3))
