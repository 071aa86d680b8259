"""Images a second, waits and memory in the log, by a clock of our own."""

import mmap
import re

import numpy as np
import pytest
import torch
from fake_time import FakeTime, SlowDataset, SlowModel
from toy_runner import toy_runner

from mmyolo_ext.engine.hooks import training_info as throughput
from mmyolo_ext.engine.hooks.curves import read_scalars
from mmyolo_ext.engine.hooks.training_info import count_images, resident_mb

HOOK = {'type': 'mmyolo_ext.ThroughputHook'}


@pytest.fixture
def clock(monkeypatch) -> FakeTime:
    clock = FakeTime()
    monkeypatch.setattr('mmengine.hooks.iter_timer_hook.time', clock)
    return clock


def rows_of(work_dir, clock, cost, samples: int = 10, window: int = 50, interval: int = 2, **settings):
    """Train an epoch in batches of two, 0.7 s each; the rows of the JSON log and the lines of the text."""
    toy_runner(
        work_dir,
        model=SlowModel(clock, 0.7),
        dataset=SlowDataset(clock, cost, samples),
        hooks=[HOOK],
        **{
            'max_epochs': 1,
            'log_processor': {'window_size': window},
            'default_hooks': {'logger': {'type': 'LoggerHook', 'interval': interval, 'ignore_last': False}},
            'log_level': 'INFO',
            **settings,
        },
    ).train()
    (log,) = work_dir.glob('*/*.log')
    return read_scalars(work_dir.glob('*/vis_data/scalars.json')), log.read_text()


def test_by_hand(tmp_path, clock) -> None:
    # batches of two samples wait 0.3 s, from the third on 1.3 s
    rows, text = rows_of(tmp_path, clock, lambda asked: 0.15 if asked < 4 else 0.65)
    # after 2 steps: 4 images in 2 x (0.3 + 0.7) s; after 4: 8 in 2 + 2 x 2; after 5: 10 in 2 + 3 x 2
    expected = [(4 / 2, 0.6 / 2), (8 / 6, (0.6 + 2.6) / 6), (10 / 8, (0.6 + 3.9) / 8)]
    assert [(row['images_per_second'], row['data_share']) for row in rows] == [pytest.approx(e) for e in expected]
    assert [row['time'] for row in rows] == pytest.approx([1, 1.5, 1.6])
    lines = [line for line in text.splitlines() if 'Epoch(train)' in line]
    assert [re.findall('images_per_second: ([0-9.]+)  data_share: ([0-9.]+)', line) for line in lines] == [
        [('2.0000', '0.3000')],
        [('1.3333', '0.5333')],
        [('1.2500', '0.5625')],
    ]


def test_the_window_is_that_of_the_log_and_a_smaller_batch_counts_as_it_is(tmp_path, clock) -> None:
    rows, _ = rows_of(tmp_path, clock, lambda asked: 0.15, samples=9, window=2, interval=1)
    # the last batch has one sample: 3 images in (0.3 + 0.7) + (0.15 + 0.7) s
    assert [row['images_per_second'] for row in rows] == pytest.approx([2, 2, 2, 2, 3 / 1.85])
    assert rows[-1]['data_share'] == pytest.approx(0.45 / 1.85)


@pytest.mark.skipif(not throughput.STATM.is_file(), reason='needs the memory as Linux says it')
def test_memory(tmp_path, clock) -> None:
    before = resident_mb()
    # from the system itself: freed memory that the process kept would be no more of it
    held = np.frombuffer(mmap.mmap(-1, 64 * 1024 * 1024), np.uint8)  # 67.1 MB
    held[:] = 1
    assert 60 < resident_mb() - before < 90
    rows, text = rows_of(tmp_path, clock, lambda asked: 0.1)
    assert re.search(r'memory: \d+\b', text)
    if not torch.cuda.is_available():
        assert all(isinstance(row['memory'], int) and abs(row['memory'] - resident_mb()) < 200 for row in rows)
    assert held.sum() > 0


def test_without_a_timer_nothing_is_said(tmp_path, clock) -> None:
    rows, _ = rows_of(tmp_path, clock, lambda asked: 0.1, default_hooks={'timer': None})
    assert rows and not any('images_per_second' in row for row in rows)


@pytest.mark.parametrize(
    ('batch', 'count'),
    [
        ({'inputs': torch.zeros(3, 1, 2, 2), 'data_samples': []}, 3),
        ({'inputs': [torch.zeros(1)] * 4}, 4),
        ({'inputs': {'sup': [0, 0], 'unsup': [0]}}, 3),
        ({'x': torch.zeros(5, 4)}, 5),
        ((torch.zeros(2, 4), torch.zeros(2)), 2),
        ([{'inputs': 0}] * 6, 6),
    ],
)
def test_images_of_a_batch(batch, count: int) -> None:
    assert count_images(batch) == count
