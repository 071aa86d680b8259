"""Losses that are fetched when they are read: the same histories, fewer waits, no graph, nothing lost."""

import pytest
import torch
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.runner.checkpoint import CheckpointLoader
from toy_runner import NUM_SAMPLES, toy_runner

from mmyolo_ext.engine.hooks import LazyInfoHook
from mmyolo_ext.engine.hooks.curves import read_scalars

LAZY = {'type': 'mmyolo_ext.LazyInfoHook'}


class Watch(Hook):
    """After the info hook: how many losses the hub knows, and whether what waits has a graph."""

    priority = 'HIGH'

    def __init__(self) -> None:
        self.known: list[int] = []
        self.with_graph = 0

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        known = runner.message_hub.log_scalars.get('train/loss')
        self.known.append(0 if known is None else len(known.data[0]))
        (info,) = [hook for hook in runner.hooks if isinstance(hook, RuntimeInfoHook)]
        self.with_graph += sum(value.requires_grad for row in getattr(info, '_pending', []) for value in row.values())


def train(work_dir, info: dict | None = None, interval: int = 2, hooks: tuple = (), **settings):
    """Five iterations an epoch, two epochs; the runner and the rows of the log."""
    assert NUM_SAMPLES == 5 * 2
    default_hooks = {
        'logger': {'type': 'LoggerHook', 'interval': interval},
        'runtime_info': info or LAZY,
        **settings.pop('default_hooks', {}),
    }
    settings = {'log_processor': {'window_size': 3}, 'max_epochs': 2, **settings}
    runner = toy_runner(work_dir, hooks=hooks, default_hooks=default_hooks, **settings)
    runner.train()
    return runner, read_scalars(sorted(work_dir.glob('*/vis_data/scalars.json')))


def histories(hub: MessageHub) -> dict[str, list[float]]:
    return {
        name: buffer.data[0].tolist() for name, buffer in hub.log_scalars.items() if 'time' not in name
    }  # that differ


@pytest.mark.parametrize('interval', [2, 100])
def test_histories_and_log_are_those_of_mmengine(tmp_path, interval: int) -> None:
    eager, expected = train(tmp_path / 'a', {'type': 'RuntimeInfoHook'}, interval)
    lazy, rows = train(tmp_path / 'b', LAZY, interval)
    assert histories(eager.message_hub) == histories(lazy.message_hub)
    assert len(histories(lazy.message_hub)['train/loss']) == 10
    shown = [key for key in expected[0] if 'time' not in key]
    assert 'loss' in shown
    assert [[row[key] for key in shown] for row in expected] == [[row[key] for key in shown] for row in rows]


def test_losses_are_fetched_where_they_are_read(tmp_path) -> None:
    watch = Watch()
    train(tmp_path, interval=2, hooks=[watch])
    # a line after iterations 2 and 4 of five; the end of an epoch fetches the fifth
    assert watch.known == [0, 2, 2, 4, 5, 5, 7, 7, 9, 10]
    assert watch.with_graph == 0


def test_without_a_log_they_come_with_the_end_of_the_epoch(tmp_path) -> None:
    watch = Watch()
    train(tmp_path, hooks=[watch], default_hooks={'logger': None})
    assert watch.known == [0, 0, 0, 0, 5, 5, 5, 5, 5, 10]


def test_a_checkpoint_between_the_lines_holds_all_losses(tmp_path) -> None:
    train(
        tmp_path,
        interval=100,
        train_cfg={'by_epoch': False, 'max_iters': 4},
        log_processor={'by_epoch': False},
        default_hooks={'checkpoint': {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False}},
    )
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'iter_3.pth'), map_location='cpu')
    assert len(saved['message_hub']['log_scalars']['train/loss']['log']) == 3


def test_histories_are_bounded(tmp_path) -> None:
    runner, _ = train(tmp_path, {**LAZY, 'history': 4})
    found, _ = train(tmp_path / 'all')
    whole = histories(found.message_hub)
    # all, rates and times too; those that are noted in the iteration at the end of which the bound is set
    assert {len(buffer.data[0]) for buffer in runner.message_hub.log_scalars.values()} == {4}
    assert all(values == whole[name][-4:] for name, values in histories(runner.message_hub).items())


def test_values_of_every_kind() -> None:
    hook, hub = LazyInfoHook(), MessageHub.get_instance('values of every kind')
    hook._pending = [
        {'a': torch.tensor([1.5], dtype=torch.bfloat16).float(), 'b': 2},
        {'b': 3.5, 'c': torch.tensor(0.1, dtype=torch.float32)},
    ]
    runner = type('Runner', (), {'message_hub': hub})
    hook._note(runner)
    assert histories(hub) == {'train/a': [1.5], 'train/b': [2, 3.5], 'train/c': [torch.tensor(0.1).item()]}
    assert isinstance(hub.get_scalar('train/a'), HistoryBuffer)


def test_a_history_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match='history must be at least 1, got 0'):
        LazyInfoHook(history=0)
