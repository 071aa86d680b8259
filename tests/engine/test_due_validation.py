"""A validation that was interrupted runs when the training resumes."""

import pytest
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.registry import METRICS
from torch.utils.data import DataLoader
from toy_runner import RECIPE_HOOKS, ToyDataset, toy_runner

from mmyolo_ext.engine.train_loop import _join_feeders

VALIDATED: list[int] = []


@METRICS.register_module()
class FirstOutput(BaseMetric):
    """The model's first output: some number."""

    def process(self, data_batch, data_samples):
        self.results.append(float(data_samples[0].flatten()[0]))

    def compute_metrics(self, results):
        return {'first': results[0]}


class StopHook(Hook):
    """Notes which epochs were validated; stops the training before a validation, or before an epoch."""

    def __init__(self, before_validation: int = 0, before_epoch: int = 0) -> None:
        self.before_validation, self.before_epoch = before_validation, before_epoch

    def before_train_epoch(self, runner):
        if runner.epoch == self.before_epoch - 1:
            raise KeyboardInterrupt

    def before_val_epoch(self, runner):
        if runner.epoch == self.before_validation:
            raise KeyboardInterrupt
        VALIDATED.append(runner.epoch)


def train(work_dir, stop: dict | None = None, resume: bool = False, **loop) -> list[int]:
    """Four epochs, validated after the second and the fourth; the epochs that were."""
    VALIDATED.clear()
    data = ToyDataset(2)
    runner = toy_runner(
        work_dir,
        hooks=[*RECIPE_HOOKS[:3], StopHook(**(stop or {}))],
        train_cfg={'by_epoch': True, 'max_epochs': 4, 'val_interval': 2, **loop},
        val_cfg={},
        val_dataloader={
            'dataset': data,
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 2,
            'collate_fn': {'type': 'default_collate'},
        },
        val_evaluator={'type': 'FirstOutput'},
        default_hooks={
            'checkpoint': {'type': 'CheckpointHook', 'interval': 1, 'save_best': 'first', 'rule': 'greater'}
        },
        resume=resume,
    )
    try:
        runner.train()
    except KeyboardInterrupt:
        assert stop
    return list(VALIDATED)


@pytest.mark.parametrize(
    ('epoch', 'interval', 'before', 'after'), [(2, 2, [], [2, 4]), (4, 2, [2], [4]), (4, 3, [3], [4])]
)
def test_a_validation_that_was_stopped_is_made(tmp_path, epoch, interval, before, after):
    assert train(tmp_path, {'before_validation': epoch}, val_interval=interval) == before
    assert train(tmp_path, resume=True, val_interval=interval) == after
    assert list(tmp_path.glob('best_first_*.pth'))


def test_none_is_made_where_none_was_due(tmp_path):
    assert train(tmp_path, {'before_epoch': 4}) == [2]
    assert train(tmp_path, resume=True) == [4], 'the third epoch has none'


@pytest.mark.parametrize('loop', [{'val_begin': 3}, {'val_interval': 3}, {'dynamic_intervals': [(2, 4)]}])
def test_the_loop_defines_when_one_is_due(tmp_path, loop):
    assert train(tmp_path, {'before_epoch': 3}, **loop) in ([], [2])
    assert 2 not in train(tmp_path, resume=True, **loop)


def test_a_training_that_starts_makes_none(tmp_path):
    assert train(tmp_path) == [2, 4]


@pytest.mark.parametrize('persistent', [False, True])
def test_no_thread_ends_while_a_validation_forks_its_workers(persistent, monkeypatch):
    batches = iter(DataLoader(range(8), 2, num_workers=2, persistent_workers=persistent))
    feeders, joined = [queue._thread for queue in batches._index_queues], []
    for thread in feeders:
        monkeypatch.setattr(thread, 'join', lambda timeout, thread=thread: joined.append(thread))
    assert len(list(batches)) == 4 and len(feeders) == 2
    _join_feeders(batches)
    assert joined == ([] if persistent else feeders)  # those of persistent workers feed the next epoch
    batches._shutdown_workers()
    _join_feeders(iter(DataLoader(range(8), 2)))
