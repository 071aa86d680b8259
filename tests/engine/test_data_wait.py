"""The warning of a training that waits for its data: when, how often, and what it advises."""

from pathlib import Path

import pytest
from fake_time import FakeTime, SlowDataset, SlowModel
from mmengine.config import Config
from mmengine.logging import MMLogger
from toy_runner import toy_runner

from mmyolo_ext.engine.hooks import DataWaitHook
from mmyolo_ext.engine.hooks.training_info import Facts, advise

ROOT = Path(__file__).parents[2]
HOOK = {'type': 'mmyolo_ext.DataWaitHook', 'window': 4, 'skip': 3, 'again_after': 6}


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    said: list[str] = []
    original = MMLogger.warning

    def warning(self, message, *args, **kwargs):
        said.append(str(message))
        original(self, message, *args, **kwargs)

    monkeypatch.setattr(MMLogger, 'warning', warning)
    return said


def train(work_dir, monkeypatch, cost, epochs: int = 4, hook: dict | None = None, **settings) -> None:
    """Five iterations an epoch of 0.7 s each; ``cost`` says what the n-th asked sample takes, two a batch."""
    clock = FakeTime()
    monkeypatch.setattr('mmengine.hooks.iter_timer_hook.time', clock)
    model, dataset = SlowModel(clock, 0.7), SlowDataset(clock, cost)
    toy_runner(work_dir, model=model, dataset=dataset, max_epochs=epochs, hooks=[hook or HOOK], **settings).train()


def of_ours(said: list[str]) -> list[str]:
    return [line for line in said if 'waited for data' in line]


def test_it_warns_rarely_and_by_hand(tmp_path, monkeypatch, warnings) -> None:
    # every batch waits 0.3 of 1.0 s; a look after 3 + 4 iterations, the next no sooner than 6 later, at 13, then at 19
    train(tmp_path, monkeypatch, lambda asked: 0.15)
    said = of_ours(warnings)
    assert len(said) == 3
    assert 'waited for data 30% of the last 4 iterations (1.2 of 4.0 s)' in said[0]
    assert 'num_workers=' in said[0] and 'CachedDataset' in said[0]


def test_a_wait_of_less_is_no_matter(tmp_path, monkeypatch, warnings) -> None:
    # 0.17 of 0.87 s is 19.5 %; once more with 0.18 of 0.88 s, 20.5 %
    train(tmp_path / 'a', monkeypatch, lambda asked: 0.085)
    assert not of_ours(warnings)
    train(tmp_path / 'b', monkeypatch, lambda asked: 0.09)
    assert '20% of the last' in of_ours(warnings)[0]


def test_the_start_does_not_count(tmp_path, monkeypatch, warnings) -> None:
    # the first three batches take an age; iterations 4 to 7 are looked at, then 8 to 11 ...
    train(tmp_path / 'a', monkeypatch, lambda asked: 9.0 if asked < 6 else 0.01)
    assert not of_ours(warnings)
    # of iterations 8 to 11 the last waits: 3.02 + 0.06 of 3.02 + 0.06 + 2.8 s
    train(tmp_path / 'b', monkeypatch, lambda asked: 1.51 if asked in (20, 21) else 0.01)
    assert ['52% of the last 4 iterations (3.1 of 5.9 s)' in line for line in of_ours(warnings)] == [True]


def test_a_resumed_run_has_a_start_of_its_own(tmp_path, monkeypatch, warnings) -> None:
    train(tmp_path, monkeypatch, lambda asked: 0.01, epochs=1)
    start = {'load_from': str(tmp_path / 'epoch_1.pth'), 'resume': True}
    train(tmp_path, monkeypatch, lambda asked: 9.0 if asked < 6 else 0.01, epochs=4, **start)
    assert not of_ours(warnings)


def test_without_a_timer(tmp_path, monkeypatch, warnings) -> None:
    train(tmp_path, monkeypatch, lambda asked: 9.0, default_hooks={'timer': None})
    assert not of_ours(warnings)


GOOD = {'workers': 4, 'persistent': True, 'cores': 4, 'threads': 0, 'cached': True}


@pytest.mark.parametrize(
    ('facts', 'expected', 'absent'),
    [
        ({'workers': 0}, 'num_workers=4 train_dataloader.persistent_workers=True (now 0, 4 cores)', 'OMP'),
        ({'workers': 1, 'cores': 64}, 'num_workers=8', 'OMP'),
        ({'persistent': False}, 'persistent_workers=True, or', 'num_workers='),
        ({'cached': False}, 'CachedDataset with max_gb above 0', 'a larger max_gb'),
        ({'cached': False}, 'on a faster disk', 'num_workers'),
        (
            {'threads': 4, 'workers': 2},
            'OMP_NUM_THREADS=2, for 4 threads of the network and 2 workers share 4',
            'disk',
        ),
        ({'threads': 1, 'workers': 2, 'cores': 2}, 'a larger max_gb', 'OMP'),
        ({'threads': 1, 'workers': 0, 'cores': 1}, 'num_workers=1', 'OMP'),
        ({}, 'a larger max_gb', 'num_workers'),
    ],
)
def test_advice(facts: dict, expected: str, absent: str) -> None:
    text = '; '.join(advise(Facts(**{**GOOD, **facts})))
    assert expected in text and absent not in text


@pytest.mark.parametrize('wrong', [{'share': 0}, {'share': 1.0}, {'window': 0}, {'skip': -1}, {'again_after': 0}])
def test_arguments(wrong: dict) -> None:
    with pytest.raises(ValueError, match='share must be between 0 and 1'):
        DataWaitHook(**wrong)


def test_every_config_has_it() -> None:
    hooks = Config.fromfile(ROOT / 'configs' / '_base_' / 'default_runtime.py').default_hooks
    assert hooks.data_wait == {'type': 'mmyolo_ext.DataWaitHook', 'share': 0.2}
    assert hooks.throughput == {'type': 'mmyolo_ext.ThroughputHook'}
