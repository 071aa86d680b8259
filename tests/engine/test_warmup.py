"""Rates and momentum at steps worked out by hand."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS
from toy_runner import ToyModel

from mmyolo_ext.engine.optim import YOLOOptimConstructor

SCHEDULES = Path(__file__).parents[2] / 'configs' / '_base_' / 'schedules'
EPOCH_LENGTH, MAX_EPOCHS = 40, 10  # T = 400 iterations


def build(scheduler: str, optimizer: dict | None = None, **settings):
    optimizer = optimizer or {'type': 'SGD', 'lr': 0.01, 'momentum': 0.937}
    wrapper = YOLOOptimConstructor({'optimizer': optimizer})(ToyModel())
    cfg = {'type': f'mmyolo_ext.{scheduler}', 'convert_to_iter_based': True, 'end': MAX_EPOCHS, **settings}
    return wrapper, PARAM_SCHEDULERS.build(cfg, default_args={'optimizer': wrapper, 'epoch_length': EPOCH_LENGTH})


def run(wrapper, scheduler, iterations: int, key: str) -> list[dict[str, float]]:
    """The value of each group before each iteration."""
    rows = []
    for _ in range(iterations):
        rows.append({group['role']: group[key] for group in wrapper.optimizer.param_groups})
        wrapper.step()
        scheduler.step()
    return rows


def test_rates_of_each_group():
    wrapper, scheduler = build('WarmupLinearLR')  # W = max(3 * 40, 100) = 120
    rates = run(wrapper, scheduler, 400, 'lr')
    assert rates[0] == {'decay': 0.0, 'no_decay': 0.0, 'bias': 0.1}
    # t = 60, half way: goal 0.01 (1 - 0.99 * 60 / 400) = 0.008515; weights half of it, biases (0.1 + 0.008515) / 2
    assert rates[60] == pytest.approx({'decay': 0.0042575, 'no_decay': 0.0042575, 'bias': 0.0542575}, rel=1e-12)
    # t = 120: warm-up is over; 1 - 0.99 * 0.3 = 0.703
    assert rates[120] == pytest.approx(dict.fromkeys(('decay', 'no_decay', 'bias'), 0.00703), rel=1e-12)
    # t = 399: 1 - 0.99 * 399 / 400 = 0.012475, one step above 1%
    assert rates[399]['decay'] == pytest.approx(0.00012475, rel=1e-12)
    assert wrapper.optimizer.param_groups[0]['lr'] == rates[399]['decay']  # t = T is not scheduled any more


def test_rates_of_the_cosine():
    wrapper, scheduler = build('WarmupCosineLR')
    rates = run(wrapper, scheduler, 400, 'lr')
    assert rates[0] == {'decay': 0.0, 'no_decay': 0.0, 'bias': 0.1}
    # t = 100 of 400, in the warm-up of 120: goal 0.01 (0.01 + 0.99 (1 + cos 45 deg) / 2) = 0.00855017857;
    # weights 5/6 of it, biases 0.1 + (0.00855017857 - 0.1) 5/6
    assert rates[100] == pytest.approx({'decay': 0.00712514881, 'no_decay': 0.00712514881, 'bias': 0.02379181548})
    # half way, cos 90 deg = 0: 0.01 (0.01 + 0.495); at 300, cos 135 deg = -0.70710678: 0.01 (0.01 + 0.14498)
    assert rates[200] == pytest.approx(dict.fromkeys(('decay', 'no_decay', 'bias'), 0.00505), rel=1e-12)
    assert rates[300]['decay'] == pytest.approx(0.01 * (0.01 + 0.99 * 0.14644660940672624), rel=1e-12)
    # one step before the end: 1 + cos(pi - pi/400) = 3.0842e-5
    assert rates[399]['bias'] == pytest.approx(0.01 * (0.01 + 0.495 * 3.0842356e-5), rel=1e-8)


def test_the_cosine_is_that_of_mmengine():
    ours, our_scheduler = build('WarmupCosineLR', warmup_epochs=0, min_warmup_iters=0, final_factor=0.05)
    theirs, _ = build('WarmupLinearLR', warmup_epochs=0, min_warmup_iters=0)  # for the wrapper
    cfg = {'type': 'CosineAnnealingLR', 'T_max': 400, 'eta_min_ratio': 0.05, 'by_epoch': False, 'end': 400}
    their_scheduler = PARAM_SCHEDULERS.build(cfg, default_args={'optimizer': theirs})
    rates = [run(ours, our_scheduler, 400, 'lr'), run(theirs, their_scheduler, 400, 'lr')]
    assert [row['bias'] for row in rates[0]] == pytest.approx([row['bias'] for row in rates[1]], rel=1e-9)


def test_the_cosine_takes_the_place_of_the_line_by_one_key():
    """Of the command line, or of a config: ``param_scheduler.0.type``."""
    for schedule in sorted(SCHEDULES.glob('*.py')):
        cfg = Config.fromfile(schedule)
        cfg.merge_from_dict({'param_scheduler.0.type': 'mmyolo_ext.WarmupCosineLR', 'param_scheduler.0.end': 10})
        wrapper = YOLOOptimConstructor({'optimizer': {'type': 'SGD', 'lr': 0.02}})(ToyModel())
        built = PARAM_SCHEDULERS.build(
            cfg.param_scheduler[0], default_args={'optimizer': wrapper, 'epoch_length': EPOCH_LENGTH}
        )
        run(wrapper, built, 200, 'lr')
        final = cfg.param_scheduler[0]['final_factor']
        assert wrapper.optimizer.param_groups[0]['lr'] == pytest.approx(0.02 * (final + (1 - final) / 2))


def test_momentum_of_each_group():
    wrapper, scheduler = build('WarmupMomentum')
    momenta = run(wrapper, scheduler, 130, 'momentum')
    assert momenta[0] == dict.fromkeys(('decay', 'no_decay', 'bias'), 0.8)
    assert momenta[30]['bias'] == pytest.approx(0.8 + 0.137 / 4, rel=1e-12)  # a quarter of W = 120
    assert momenta[120]['decay'] == momenta[129]['decay'] == 0.937


def test_momentum_of_adam_is_its_first_beta():
    wrapper, scheduler = build('WarmupMomentum', {'type': 'AdamW', 'lr': 1e-3, 'betas': (0.9, 0.999)})
    for _ in range(60):
        wrapper.step()
        scheduler.step()
    assert wrapper.optimizer.param_groups[0]['betas'] == pytest.approx((0.85, 0.999))


@pytest.mark.parametrize(('epochs', 'minimum', 'expected'), [(3, 100, 120), (2, 100, 100), (0, 0, 0), (0.5, 5, 20)])
def test_length_of_the_warm_up(epochs, minimum, expected):
    _, scheduler = build('WarmupLinearLR', warmup_epochs=epochs, min_warmup_iters=minimum)
    assert scheduler.warmup_iters == expected


def test_no_warm_up_starts_at_the_base_rate():
    wrapper, _ = build('WarmupLinearLR', warmup_epochs=0, min_warmup_iters=0)
    assert {group['lr'] for group in wrapper.optimizer.param_groups} == {0.01}


@pytest.mark.parametrize('kind', ['WarmupLinearLR', 'WarmupCosineLR'])
@pytest.mark.parametrize('done', [0, 50, 119, 120, 250])
def test_resumed_values_are_the_same_to_the_bit(done, kind):
    wrapper, scheduler = build(kind)
    run(wrapper, scheduler, done, 'lr')
    resumed, other = build(kind)
    resumed.load_state_dict(wrapper.state_dict())
    other.load_state_dict(scheduler.state_dict())
    assert run(resumed, other, 100, 'lr') == run(wrapper, scheduler, 100, 'lr')


def test_resuming_with_more_epochs_follows_the_longer_schedule():
    wrapper, scheduler = build('WarmupLinearLR')
    run(wrapper, scheduler, 200, 'lr')
    resumed, other = build('WarmupLinearLR', end=2 * MAX_EPOCHS)
    resumed.load_state_dict(wrapper.state_dict())
    other.load_state_dict(scheduler.state_dict())
    assert resumed.optimizer.param_groups[0]['lr'] == pytest.approx(0.01 * (1 - 0.99 * 200 / 800))


def test_by_epoch_is_refused():
    with pytest.raises(ValueError, match='convert_to_iter_based=True'):
        build('WarmupLinearLR', convert_to_iter_based=False, by_epoch=True, warmup_iters=3)


def test_schedules_do_not_disturb_plain_optimizers():
    optimizer = torch.optim.SGD(ToyModel().parameters(), lr=0.5)
    cfg = {'type': 'mmyolo_ext.WarmupLinearLR', 'warmup_iters': 4, 'by_epoch': False, 'end': 8}
    PARAM_SCHEDULERS.build(cfg, default_args={'optimizer': optimizer})
    assert optimizer.param_groups[0]['lr'] == 0.0
