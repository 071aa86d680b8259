"""The hooks in a running training: accumulation, averaging, seeds, closing, resuming to the last bit."""

import copy
import logging
import math

import pytest
import torch
from mmengine.hooks import Hook
from toy_runner import NUM_SAMPLES, RECIPE_HOOKS, ToyModel, toy_runner


class Recorder(Hook):
    """Notes weights, rates and what the optimizer did, after each iteration; may kill the run."""

    priority = 'LOWEST'

    def __init__(self, kill_at_epoch: int | None = None) -> None:
        self.kill_at_epoch = kill_at_epoch
        self.weights: list[dict] = []
        self.rates: list[list[float]] = []
        self.stepped: list[bool] = []

    def before_train_epoch(self, runner) -> None:
        if runner.epoch == self.kill_at_epoch:
            raise KeyboardInterrupt

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        groups = runner.optim_wrapper.optimizer.param_groups
        self.rates.append([(group['lr'], group['momentum'], group['weight_decay']) for group in groups])

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        self.weights.append(copy.deepcopy(runner.model.state_dict()))
        self.stepped.append(runner.optim_wrapper.should_update())


def train(work_dir, recorder=None, hooks=RECIPE_HOOKS, **settings):
    recorder = recorder or Recorder()
    runner = toy_runner(work_dir, hooks=[*hooks, recorder], **settings)
    try:
        runner.train()
    except KeyboardInterrupt:
        assert recorder.kill_at_epoch is not None
    return runner, recorder


def hook_of(runner, name: str) -> Hook:
    return next(hook for hook in runner.hooks if type(hook).__name__ == name)


def assert_same(first, second) -> None:
    """Equal to the last bit, through nested dicts and lists."""
    if isinstance(first, torch.Tensor):
        assert torch.equal(first, second)
    elif isinstance(first, dict):
        assert first.keys() == second.keys()
        for key in first:
            assert_same(first[key], second[key])
    elif isinstance(first, (list, tuple)):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    else:
        assert first == second


@pytest.mark.parametrize('dropout', [0.0, 0.5])
@pytest.mark.parametrize('kill_at_epoch', [1, 3])
def test_resumed_training_is_the_same_to_the_last_bit(tmp_path, kill_at_epoch, dropout):
    straight, whole = train(tmp_path / 'straight', model=ToyModel(dropout))
    _, before = train(tmp_path / 'killed', Recorder(kill_at_epoch), model=ToyModel(dropout))
    resumed, after = train(tmp_path / 'killed', model=ToyModel(dropout), resume=True)
    assert len(before.weights) + len(after.weights) == len(whole.weights) == 20
    assert_same(before.weights + after.weights, whole.weights)
    assert before.rates + after.rates == whole.rates
    assert_same(
        hook_of(resumed, 'StepEMAHook').ema_model.state_dict(), hook_of(straight, 'StepEMAHook').ema_model.state_dict()
    )
    assert_same(resumed.optim_wrapper.state_dict(), straight.optim_wrapper.state_dict())


def test_resuming_takes_the_seed_of_the_checkpoint_when_the_config_has_none(tmp_path):
    _, whole = train(tmp_path / 'straight', randomness={'seed': 11})
    train(tmp_path / 'killed', Recorder(2), randomness={'seed': 11})
    _, after = train(tmp_path / 'killed', resume=True, randomness={'seed': None})
    assert_same(after.weights, whole.weights[10:])


def test_accumulation_sums_to_the_nominal_batch_and_flushes_at_the_end_of_an_epoch(tmp_path):
    runner, recorder = train(tmp_path, max_epochs=2)
    # batches of 2, nominal 4: k = 2; an epoch of 10 samples has 5 iterations
    assert recorder.stepped == [False, True, False, True, True] * 2
    assert hook_of(runner, 'StepEMAHook').ema_model.steps.item() == 6


@pytest.mark.parametrize(
    ('batch_size', 'nominal', 'counts', 'scale'),
    # k = max(round(nominal / batch), 1); the decay is scaled by batch * k / nominal
    [(2, 4, 2, 1.0), (2, 64, 32, 1.0), (3, 4, 1, 0.75), (3, 64, 21, 63 / 64), (10, 4, 1, 2.5)],
)
def test_weight_decay_keeps_pace_with_the_images_of_a_step(tmp_path, batch_size, nominal, counts, scale):
    hooks = [{'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': nominal}]
    runner, recorder = train(tmp_path, hooks=hooks, batch_size=batch_size, max_epochs=1)
    assert runner.optim_wrapper.accumulative_counts == counts
    assert [decay for _, _, decay in recorder.rates[0]] == pytest.approx([5e-4 * scale, 0, 0])


def test_the_effective_rate_is_logged(tmp_path, caplog):
    hooks = [{'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': 4}]
    runner = toy_runner(tmp_path, hooks=hooks, max_epochs=1, log_level='INFO')
    runner.logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO):
        runner.train()
    assert 'batch 2 x 1 rank(s) x 2 iteration(s)' in caplog.text
    assert 'lr 0.01 on the sum, as 0.04 on the mean' in caplog.text


def test_ema_follows_its_formula(tmp_path):
    runner, recorder = train(tmp_path, max_epochs=3)
    stepped = [weights for weights, step in zip(recorder.weights, recorder.stepped, strict=True) if step]
    expected = {key: value.double() for key, value in stepped[0].items()}  # the first step copies
    for n, weights in enumerate(stepped[1:], start=2):
        d = 0.9999 * (1 - math.exp(-n / 2000))
        for key in expected:
            if weights[key].is_floating_point():
                expected[key] = d * expected[key] + (1 - d) * weights[key].double()
    ema = hook_of(runner, 'StepEMAHook').ema_model.module.state_dict()
    for key, value in expected.items():
        if key.endswith('num_batches_tracked'):
            continue
        torch.testing.assert_close(ema[key].double(), value, rtol=1e-5, atol=1e-6, msg=key)
    assert not torch.equal(ema['norm.running_mean'], recorder.weights[-1]['norm.running_mean'])


def test_a_checkpoint_holds_the_ema(tmp_path):
    runner, _ = train(tmp_path, max_epochs=1)
    saved = torch.load(tmp_path / 'epoch_1.pth', weights_only=False)
    ema = hook_of(runner, 'StepEMAHook').ema_model.module.state_dict()
    assert_same(dict(saved['state_dict']), dict(ema))


def test_each_epoch_is_set_in_the_dataset(tmp_path):
    runner, _ = train(tmp_path, max_epochs=3, randomness={'seed': 7})
    assert runner.train_dataloader.dataset.epochs == [(0, 7), (1, 7), (2, 7)]


@pytest.mark.parametrize(('last', 'closed_at'), [(2, [2]), (0, []), (9, [0])])
def test_mixing_is_closed_once_for_the_last_epochs(tmp_path, last, closed_at):
    hooks = [RECIPE_HOOKS[2], {'type': 'mmyolo_ext.CloseMosaicHook', 'num_last_epochs': last}]
    runner, _ = train(tmp_path, hooks=hooks)
    assert runner.train_dataloader.dataset.closed_at == closed_at


@pytest.mark.parametrize(('kill_at', 'closed_at'), [(1, 2), (3, 3)])
def test_mixing_is_closed_after_resuming_too(tmp_path, kill_at, closed_at):
    train(tmp_path, Recorder(kill_at))
    runner, _ = train(tmp_path, resume=True)
    assert runner.train_dataloader.dataset.closed_at == [closed_at]


class PlainDataset(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {'x': torch.ones(4)}


ITERATIONS = {'by_epoch': False, 'max_iters': 4}


@pytest.mark.parametrize(
    ('hook', 'settings', 'message'),
    [
        (
            RECIPE_HOOKS[0],
            {'train_cfg': ITERATIONS, 'param_scheduler': None},
            'EpochBasedTrainLoop, got IterTrainLoop',
        ),
        (
            RECIPE_HOOKS[0],
            {'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 1}}},
            "set optim_wrapper.type to 'mmyolo",
        ),
        (RECIPE_HOOKS[0], {'auto_scale_lr': {'enable': True, 'base_batch_size': 64}}, 'auto_scale_lr.enable=False'),
        (RECIPE_HOOKS[2], {'dataset': PlainDataset()}, 'PlainDataset has no set_epoch.*mmyolo_ext.SeededDataset'),
        (RECIPE_HOOKS[3], {'dataset': PlainDataset()}, 'PlainDataset has no close_mosaic'),
    ],
)
def test_what_cannot_work_is_found_before_the_first_step(tmp_path, hook, settings, message):
    recorder = Recorder()
    with pytest.raises(ValueError, match=message):
        train(tmp_path, recorder, hooks=[hook], **settings)
    assert recorder.weights == []


def test_a_nominal_batch_of_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match='must be at least'):
        toy_runner(tmp_path, hooks=[{'type': 'mmyolo_ext.AccumulateHook', 'nominal_batch_size': 0}])
