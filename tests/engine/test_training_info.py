"""A line of the training log: losses, shares, throughput, memory; and the warning about waiting for data."""

import mmap
import re

import numpy as np
import pytest
import torch
from fake_time import FakeTime, SlowDataset, SlowModel
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import BaseModel
from mmengine.registry import VISBACKENDS
from mmengine.runner.checkpoint import CheckpointLoader
from mmengine.visualization.vis_backend import LocalVisBackend
from toy_runner import NUM_SAMPLES, toy_runner

from mmyolo_ext.engine.hooks import TrainingInfoHook, training_info
from mmyolo_ext.engine.hooks.curves import loss_names, read_scalars
from mmyolo_ext.engine.hooks.training_info import advise, count_images, resident_mb, share_name

INFO = {'type': 'mmyolo_ext.TrainingInfoHook'}
# of each iteration; the third term is a list by level, as heads of mmdet return it
TERMS = {
    'loss_cls': [1.0, 2.0, 3.0, 4.0, 5.0],
    'loss_bbox': [1.0, 1.0, 1.0, 1.0, 1.0],
    'd0.loss_obj': [(2.0, 0.0), (1.0, 1.0), (2.0, 2.0), (1.5, 0.5), (4.0, 0.0)],
}


class Watch(Hook):
    """Records, after the info hook, how many losses the hub has and whether pending ones have a graph."""

    priority = 'VERY_LOW'

    def __init__(self) -> None:
        self.known: list[int] = []
        self.with_graph = 0

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        known = runner.message_hub.log_scalars.get('train/loss')
        self.known.append(0 if known is None else len(known.data[0]))
        (info,) = [hook for hook in runner.hooks if isinstance(hook, RuntimeInfoHook)]
        self.with_graph += sum(value.requires_grad for row in info._pending for value in row.values())


class Scripted(BaseModel):
    """Returns the losses of ``TERMS`` in order, and an accuracy, which is no loss."""

    def __init__(self) -> None:
        super().__init__()
        self.one = torch.nn.Parameter(torch.ones(()))
        self.calls = 0

    def forward(self, x, mode='loss'):
        step = self.calls % 5
        self.calls += 1
        losses = {name: self._of(values[step]) for name, values in TERMS.items()}
        return {**losses, 'acc': self.one.detach() * 50}

    def _of(self, value):
        return [self.one * part for part in value] if isinstance(value, tuple) else self.one * value


class Seen(LocalVisBackend):
    """Records what a visualizer backend gets."""

    rows: list[dict] = []

    def add_scalars(self, scalar_dict, step=0, file_path=None, **kwargs) -> None:
        self.rows.append(dict(scalar_dict))
        super().add_scalars(scalar_dict, step, file_path, **kwargs)


def train(work_dir, info: dict = INFO, interval: int = 2, window: int = 3, default_hooks=None, **settings):
    """Train for five iterations an epoch; return the runner and the rows of the log."""
    assert NUM_SAMPLES == 5 * 2
    logger = {'type': 'LoggerHook', 'interval': interval, 'ignore_last': False}
    settings = {'log_processor': {'window_size': window}, 'max_epochs': 1, **settings}
    runner = toy_runner(
        work_dir, default_hooks={'logger': logger, 'runtime_info': info, **(default_hooks or {})}, **settings
    )
    runner.train()
    return runner, read_scalars(sorted(work_dir.glob('*/vis_data/scalars.json')))


def train_scripted(work_dir, **settings):
    """Train on the losses of ``TERMS``."""
    fixed = {'optim_wrapper': {'optimizer': {'type': 'SGD', 'lr': 0.0}}, 'param_scheduler': None, 'window': 2}
    return train(work_dir, model=Scripted(), **{**fixed, **settings})


def train_slowly(work_dir, monkeypatch, cost, samples: int = 10, **settings):
    """Train with 0.7 s for each batch of two; ``cost(n)`` is the time of the n-th requested sample."""
    clock = FakeTime()
    monkeypatch.setattr('mmengine.hooks.iter_timer_hook.time', clock)
    model, dataset = SlowModel(clock, 0.7), SlowDataset(clock, cost, samples)
    return train(work_dir, model=model, dataset=dataset, **{'window': 50, **settings})


def text_log(work_dir) -> list[str]:
    (log,) = work_dir.glob('*/*.log')
    return [line for line in log.read_text().splitlines() if 'Epoch(train)' in line]


def histories(hub: MessageHub) -> dict[str, list[float]]:
    """Return the histories without those that differ from run to run or that MMEngine's hook does not have."""
    differing = ('time', 'share', 'images_per_second', 'memory')
    return {
        name: buffer.data[0].tolist()
        for name, buffer in hub.log_scalars.items()
        if not any(word in name for word in differing)
    }


# losses


@pytest.mark.parametrize('interval', [2, 100])
def test_histories_and_log_are_those_of_mmengine(tmp_path, interval: int) -> None:
    theirs, expected = train(tmp_path / 'a', {'type': 'RuntimeInfoHook'}, interval, max_epochs=2)
    ours, rows = train(tmp_path / 'b', INFO, interval, max_epochs=2)
    assert histories(theirs.message_hub) == histories(ours.message_hub)
    assert len(histories(ours.message_hub)['train/loss']) == 10
    shown = [key for key in expected[0] if 'time' not in key]
    assert 'loss' in shown
    assert [[row[key] for key in shown] for row in expected] == [[row[key] for key in shown] for row in rows]


@pytest.mark.parametrize(
    ('default_hooks', 'known'),
    [
        # a line after iterations 2 and 4 of five; the end of an epoch fetches the fifth
        ({}, [0, 2, 2, 4, 5, 5, 7, 7, 9, 10]),
        ({'logger': None}, [0, 0, 0, 0, 5, 5, 5, 5, 5, 10]),
    ],
)
def test_losses_are_fetched_when_they_are_read(tmp_path, default_hooks: dict, known: list[int]) -> None:
    watch = Watch()
    train(tmp_path, hooks=[watch], max_epochs=2, default_hooks=default_hooks)
    assert watch.known == known
    assert watch.with_graph == 0


def test_a_checkpoint_between_the_lines_holds_all_losses(tmp_path) -> None:
    checkpoint = {'type': 'CheckpointHook', 'interval': 3, 'by_epoch': False}
    train(
        tmp_path,
        interval=100,
        train_cfg={'by_epoch': False, 'max_iters': 4},
        log_processor={'by_epoch': False, 'window_size': 3},
        default_hooks={'checkpoint': checkpoint},
    )
    saved = CheckpointLoader.load_checkpoint(str(tmp_path / 'iter_3.pth'), map_location='cpu')
    assert len(saved['message_hub']['log_scalars']['train/loss']['log']) == 3


def test_histories_are_bounded(tmp_path) -> None:
    runner, _ = train(tmp_path / 'bounded', {**INFO, 'history': 4}, max_epochs=2)
    whole = histories(train(tmp_path / 'all', max_epochs=2)[0].message_hub)
    assert all(values == whole[name][-4:] for name, values in histories(runner.message_hub).items())


def test_values_of_every_kind() -> None:
    hook, hub = TrainingInfoHook(), MessageHub.get_instance('values of every kind')
    hook._pending = [{'a': torch.tensor([1.5]), 'b': 2}, {'b': 3.5, 'c': torch.tensor(0.1)}]
    hook._fetch(type('Runner', (), {'message_hub': hub}))
    assert histories(hub) == {'train/a': [1.5], 'train/b': [2, 3.5], 'train/c': [torch.tensor(0.1).item()]}


# shares


@pytest.mark.parametrize(
    ('term', 'name'),
    [
        ('loss_cls', 'share_cls'),
        ('loss_bbox_2', 'share_bbox_2'),
        ('loss_rpn_cls', 'share_rpn_cls'),
        ('d0.loss_iou', 'share_d0.iou'),
        ('sup_loss_cls', 'share_sup_cls'),
        ('aux_loss', 'share_aux'),
    ],
)
def test_names_of_shares(term: str, name: str) -> None:
    assert share_name(term) == name


def test_shares_of_the_means_in_the_same_line(tmp_path) -> None:
    VISBACKENDS.register_module(module=Seen, force=True)
    Seen.rows.clear()
    visualizer = {'type': 'Visualizer', 'vis_backends': [{'type': 'Seen'}], 'name': 'seen'}
    runner, rows = train_scripted(tmp_path, visualizer=visualizer, log_level='INFO')
    names = ('share_cls', 'share_bbox', 'share_d0.obj')
    # means over two iterations: the first line (1 + 2) / 2 = 1.5, 1, (2 + 2) / 2 = 2, of 4.5; the second one, of
    # iterations 3 and 4, 3.5, 1, 3, of 7.5; the last, of 4 and 5, 4.5, 1, 3, of 8.5
    expected = [[1.5 / 4.5, 1 / 4.5, 2 / 4.5], [3.5 / 7.5, 1 / 7.5, 3 / 7.5], [4.5 / 8.5, 1 / 8.5, 3 / 8.5]]
    assert [[row[name] for name in names] for row in rows] == [pytest.approx(line) for line in expected]
    assert [row['share_bbox'] for row in Seen.rows] == [row['share_bbox'] for row in rows]
    assert not [name for row in rows for name in row if 'share' in name and name not in (*names, 'data_share')]
    found = [re.findall(r'share_cls: ([\d.]+)', line) for line in text_log(tmp_path)]
    assert found == [['0.3333'], ['0.4667'], ['0.5294']]
    assert len(runner.message_hub.get_scalar('train/share_cls').data[0]) == 3  # one for each line, none in between
    assert 'share_cls' not in loss_names(rows)  # curves.png draws no shares


@pytest.mark.parametrize(
    ('terms', 'expected'),
    # of a negative term the absolute value counts, or the shares would be 1 / -2 and -3 / -2
    [({'a_loss': 1.0, 'b_loss': -3.0}, [0.25, -0.75]), ({'a_loss': 0.0, 'b_loss': 0.0}, [0.0, 0.0])],
)
def test_negative_terms_and_zeros(terms: dict, expected: list[float]) -> None:
    hub = MessageHub.get_instance(f'shares {terms}')
    for name, value in terms.items():
        hub.update_scalar(f'train/{name}', value)
    processor = type('Processor', (), {'window_size': 1})
    TrainingInfoHook()._add_shares(type('Runner', (), {'message_hub': hub, 'log_processor': processor}), list(terms))
    assert [hub.get_scalar(f'train/share_{name}').current() for name in 'ab'] == expected


@pytest.mark.parametrize('window', [1, 3])
def test_shares_use_the_window_of_the_log(tmp_path, window: int) -> None:
    _, rows = train_scripted(tmp_path, interval=1, window=window, max_epochs=2)
    cls = TERMS['loss_cls'] * 2
    others = [1 + sum(pair) for pair in TERMS['d0.loss_obj']] * 2
    for step, row in enumerate(rows, 1):
        part = slice(max(step - window, 0), step)
        assert row['share_cls'] == pytest.approx(sum(cls[part]) / (sum(cls[part]) + sum(others[part])))


def test_a_log_by_iteration(tmp_path) -> None:
    _, rows = train_scripted(tmp_path, train_cfg={'by_epoch': False, 'max_iters': 4})
    assert [row['share_bbox'] for row in rows] == pytest.approx([1 / 4.5, 1 / 7.5])


# throughput and memory


def test_throughput_by_hand(tmp_path, monkeypatch) -> None:
    # batches of two samples wait 0.3 s, from the third on 1.3 s
    cost = lambda asked: 0.15 if asked < 4 else 0.65  # noqa: E731
    _, rows = train_slowly(tmp_path, monkeypatch, cost, log_level='INFO')
    # after 2 steps: 4 images in 2 x (0.3 + 0.7) s; after 4: 8 in 2 + 2 x 2; after 5: 10 in 2 + 3 x 2
    expected = [(4 / 2, 0.6 / 2), (8 / 6, (0.6 + 2.6) / 6), (10 / 8, (0.6 + 3.9) / 8)]
    assert [(row['images_per_second'], row['data_share']) for row in rows] == [pytest.approx(e) for e in expected]
    assert [row['time'] for row in rows] == pytest.approx([1, 1.5, 1.6])
    lines = text_log(tmp_path)
    assert [re.findall('images_per_second: ([0-9.]+)  data_share: ([0-9.]+)', line) for line in lines] == [
        [('2.0000', '0.3000')],
        [('1.3333', '0.5333')],
        [('1.2500', '0.5625')],
    ]
    if training_info.STATM.is_file():
        assert all(re.search(r'memory: \d+\b', line) for line in lines)


def test_throughput_counts_the_images_of_a_smaller_batch(tmp_path, monkeypatch) -> None:
    _, rows = train_slowly(tmp_path, monkeypatch, lambda asked: 0.15, samples=9, window=2, interval=1)
    # the last batch has one sample: 3 images in (0.3 + 0.7) + (0.15 + 0.7) s
    assert [row['images_per_second'] for row in rows] == pytest.approx([2, 2, 2, 2, 3 / 1.85])
    assert rows[-1]['data_share'] == pytest.approx(0.45 / 1.85)


def test_without_a_timer_there_is_neither_throughput_nor_warning(tmp_path, monkeypatch, warnings) -> None:
    _, rows = train_slowly(tmp_path, monkeypatch, lambda asked: 9.0, max_epochs=4, default_hooks={'timer': None})
    assert rows and not any('images_per_second' in row for row in rows)
    assert not warnings


@pytest.mark.skipif(not training_info.STATM.is_file(), reason='needs /proc')
def test_resident_memory() -> None:
    before = resident_mb()
    held = np.frombuffer(mmap.mmap(-1, 64 * 1024 * 1024), np.uint8)  # 67.1 MB
    held[:] = 1
    assert 60 < resident_mb() - before < 90


@pytest.mark.parametrize(
    ('batch', 'count'),
    [
        ({'inputs': torch.zeros(3, 1, 2, 2), 'data_samples': []}, 3),
        ({'inputs': [torch.zeros(1)] * 4}, 4),
        ({'inputs': {'sup': [0, 0], 'unsup': [0]}}, 3),
        ({'x': torch.zeros(5, 4)}, 5),
        ([{'inputs': 0}] * 6, 6),
    ],
)
def test_images_of_a_batch(batch, count: int) -> None:
    assert count_images(batch) == count


# waiting for data


@pytest.fixture
def warnings(monkeypatch) -> list[str]:
    """Warnings about waiting, with a window of 4 iterations after the first 3, and 6 iterations between two."""
    for name, value in (('WAIT_WINDOW', 4), ('WAIT_SKIP', 3), ('WAIT_PAUSE', 6)):
        monkeypatch.setattr(training_info, name, value)
    seen: list[str] = []
    original = MMLogger.warning

    def warning(self, message, *args, **kwargs):
        if 'waited for data' in str(message):
            seen.append(str(message))
        original(self, message, *args, **kwargs)

    monkeypatch.setattr(MMLogger, 'warning', warning)
    return seen


def test_the_warning_is_rare(tmp_path, monkeypatch, warnings) -> None:
    # every batch waits 0.3 of 1.0 s; a check after 3 + 4 iterations, the next no sooner than 6 later, at 13, then 19
    train_slowly(tmp_path, monkeypatch, lambda asked: 0.15, max_epochs=4)
    assert len(warnings) == 3
    assert 'waited for data 30% of the last 4 iterations (1.2 of 4.0 s)' in warnings[0]
    assert 'num_workers=' in warnings[0] and 'CachedDataset' in warnings[0]


def test_the_warning_depends_on_the_share(tmp_path, monkeypatch, warnings) -> None:
    # 0.17 of 0.87 s is 19.5 %; 0.18 of 0.88 s is 20.5 %
    train_slowly(tmp_path / 'a', monkeypatch, lambda asked: 0.085, max_epochs=2)
    assert not warnings
    train_slowly(tmp_path / 'b', monkeypatch, lambda asked: 0.09, info={**INFO, 'max_wait': 0.21}, max_epochs=2)
    assert not warnings
    train_slowly(tmp_path / 'c', monkeypatch, lambda asked: 0.09, max_epochs=2)
    assert '20% of the last' in warnings[0]


def test_the_start_of_a_run_does_not_count(tmp_path, monkeypatch, warnings) -> None:
    # the first three batches are slow; iterations 4 to 7 are checked, then 8 to 11
    slow_start = lambda asked: 9.0 if asked < 6 else 0.01  # noqa: E731
    train_slowly(tmp_path / 'a', monkeypatch, slow_start)
    start = {'load_from': str(tmp_path / 'a' / 'epoch_1.pth'), 'resume': True}
    train_slowly(tmp_path / 'a', monkeypatch, slow_start, max_epochs=4, **start)
    assert not warnings
    # of iterations 8 to 11 the last waits: 3.02 + 0.06 of 3.02 + 0.06 + 2.8 s
    cost = lambda asked: 1.51 if asked in (20, 21) else 0.01  # noqa: E731
    train_slowly(tmp_path / 'b', monkeypatch, cost, max_epochs=4)
    assert ['52% of the last 4 iterations (3.1 of 5.9 s)' in line for line in warnings] == [True]


GOOD = {'workers': 4, 'persistent': True, 'cores': 4, 'threads': 0, 'cached': True}


@pytest.mark.parametrize(
    ('facts', 'expected', 'absent'),
    [
        ({'workers': 0}, 'num_workers=4 train_dataloader.persistent_workers=True (now 0, 4 cores)', 'OMP'),
        ({'workers': 1, 'cores': 64}, 'num_workers=8', 'OMP'),
        ({'persistent': False}, 'persistent_workers=True (now 4, 4 cores)', 'OMP'),
        ({'cached': False}, 'CachedDataset with max_gb above 0', 'a larger max_gb'),
        ({'cached': False}, 'a faster disk', 'num_workers'),
        ({'threads': 4, 'workers': 2}, 'OMP_NUM_THREADS=2, because 4 threads of the network and 2 workers', 'disk'),
        ({'threads': 1, 'workers': 2, 'cores': 2}, 'a larger max_gb', 'OMP'),
        ({'threads': 1, 'workers': 0, 'cores': 1}, 'num_workers=1', 'OMP'),
        ({}, 'a larger max_gb', 'num_workers'),
    ],
)
def test_advice(facts: dict, expected: str, absent: str) -> None:
    text = '; '.join(advise(**{**GOOD, **facts}))
    assert expected in text and absent not in text
