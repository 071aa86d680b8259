"""Hooks of a test: the table of times, measured with a fake clock, and the fused copy."""

import re
from types import SimpleNamespace

import pytest
import torch
from fake_time import FakeTime, SlowDataset
from mmcv.cnn import ConvModule
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseDataPreprocessor, BaseModel
from mmengine.runner import Runner
from torch import nn

from mmyolo_ext.engine.hooks.evaluation import FuseHook, TestTimeHook, split, time_table


class Head(nn.Module):
    """Takes 0.05 s a batch to predict, of which a part twice nested counts once."""

    def __init__(self, clock: FakeTime) -> None:
        super().__init__()
        self.clock = clock

    def predict_by_feat(self, x):
        return self.merge_preds(x)

    def merge_preds(self, x):
        self.clock.pass_by(0.05)
        return [*x]


class Preprocessor(BaseDataPreprocessor):
    def __init__(self, clock: FakeTime) -> None:
        super().__init__()
        self.clock = clock

    def forward(self, data, training=False):
        self.clock.pass_by(0.01)
        return super().forward(data, training)


class Model(BaseModel):
    """The network takes 0.2 s a batch."""

    def __init__(self, clock: FakeTime, with_head: bool = True) -> None:
        super().__init__(data_preprocessor=Preprocessor(clock))
        self.clock = clock
        self.weight = nn.Parameter(torch.ones(()))
        self.head = Head(clock) if with_head else None

    def forward(self, x, mode='predict'):
        self.clock.pass_by(0.2)
        return [*x] if self.head is None else self.head.predict_by_feat(x)


class SlowMetric(BaseMetric):
    """0.04 s a batch, and 3 s at the end."""

    def __init__(self, clock: FakeTime) -> None:
        super().__init__(prefix='slow')
        self.clock = clock

    def process(self, data_batch, data_samples):
        self.clock.pass_by(0.04)
        self.results.append(0)

    def compute_metrics(self, results):
        self.clock.pass_by(3)
        return {'images': len(results)}


def run_test(work_dir, monkeypatch, images: int = 10, with_head: bool = True, **hook):
    """A test in batches of two, whose first four images take long; its hook and its log."""
    clock = FakeTime()
    monkeypatch.setattr('mmyolo_ext.engine.hooks.evaluation.time', clock)
    model = Model(clock, with_head)
    runner = Runner(
        model=model,
        work_dir=str(work_dir),
        test_dataloader={
            'dataset': SlowDataset(clock, lambda asked: 7.0 if asked < 4 else 0.03, images),
            'sampler': {'type': 'DefaultSampler', 'shuffle': False},
            'batch_size': 2,
            'collate_fn': {'type': 'default_collate'},
        },
        test_cfg={},
        test_evaluator=[SlowMetric(clock)],
        custom_hooks=[{'type': 'mmyolo_ext.TestTimeHook', **hook}],
        default_scope='mmdet',
        experiment_name=str(work_dir).replace('/', '_'),
    )
    runner.test()
    (log,) = work_dir.glob('*/*.log')
    (hook,) = [hook for hook in runner.hooks if isinstance(hook, TestTimeHook)]
    return hook, log.read_text(), model


def test_by_hand(tmp_path, monkeypatch) -> None:
    hook, text, model = run_test(tmp_path, monkeypatch)
    # a batch of two: 0.06 s of waiting, 0.01, 0.2, 0.05, 0.04: 30, 5, 100, 25 and 20 ms a image, 180 in all
    assert hook.parts_ms == pytest.approx(
        {
            'waiting for data': 30,
            'preprocessing': 5,
            'network': 100,
            'decoding, NMS': 25,
            'metric, hooks': 20,
        }
    )
    assert 'Time of 6 images in 3 batches, after 4 images of warm-up (cpu' in text
    assert 'The metric at the end took 3.00 s.' in text
    rows = dict(re.findall(r'^  (\w[\w, ]*?) +([\d.]+ ms +[\d.]+%.*)$', text, re.MULTILINE))
    assert rows['network'].split() == ['100.000', 'ms', '55.6%']
    assert rows['all'].split() == ['180.000', 'ms', '100.0%', '5.6', 'images/s']
    # the table is the end of the log, and the model is as it was
    assert text.index('slow/images') < text.index('Time of 6')
    assert not {'test_step', 'forward', 'predict_by_feat', 'merge_preds'} & {
        name for module in model.modules() for name in vars(module)
    }


def test_a_model_whose_suppression_is_not_separate(tmp_path, monkeypatch) -> None:
    hook, text, _ = run_test(tmp_path, monkeypatch, with_head=False)
    assert list(hook.parts_ms) == ['waiting for data', 'preprocessing', 'network with NMS', 'metric, hooks']
    assert hook.parts_ms['network with NMS'] == pytest.approx(100)
    assert re.search(r'  network with NMS +100\.000 ms', text)


def test_a_single_batch_counts(tmp_path, monkeypatch) -> None:
    hook, text, _ = run_test(tmp_path, monkeypatch, images=2)
    assert 'Time of 2 images in 1 batches, after 0 images' in text
    assert hook.parts_ms['waiting for data'] == pytest.approx(7000)


def test_two_batches_leave_one(tmp_path, monkeypatch) -> None:
    _, text, _ = run_test(tmp_path, monkeypatch, images=4)
    assert 'Time of 2 images in 1 batches, after 2 images' in text


def test_the_parts_add_up() -> None:
    seconds = {'waiting for data': 1.0, 'preprocessing': 0.5, 'decoding, NMS': 0.25, 'step': 2.0, 'iteration': 2.5}
    parts = split(seconds)
    assert parts == {
        'waiting for data': 1.0,
        'preprocessing': 0.5,
        'network': 1.25,
        'decoding, NMS': 0.25,
        'metric, hooks': 0.5,
    }
    assert sum(parts.values()) == 1.0 + 2.5
    assert time_table({'a': 1.0, 'bcd': 3.0}) == (
        '  a        1.000 ms  25.0%\n  bcd      3.000 ms  75.0%\n  all      4.000 ms  100.0%   250.0 images/s'
    )


def test_a_fused_copy_replaces_the_model_during_a_test() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(ConvModule(3, 4, 3, norm_cfg={'type': 'BN'}), nn.Conv2d(4, 2, 1))
    nn.init.normal_(model[0].bn.running_mean)
    nn.init.uniform_(model[0].bn.running_var, 0.5, 1.5)
    images = torch.randn(2, 3, 8, 8)
    wanted = model.eval()(images)
    runner = SimpleNamespace(model=model)
    hook = FuseHook()
    hook.before_test_epoch(runner)
    kinds = [type(module) for module in runner.model.modules()]
    assert nn.BatchNorm2d not in kinds and nn.BatchNorm2d in [type(module) for module in model.modules()]
    torch.testing.assert_close(runner.model(images), wanted, rtol=0, atol=1e-5)
    # weights put back into the model meanwhile stay there
    nn.init.zeros_(model[1].weight)
    hook.after_test_epoch(runner, {})
    assert runner.model is model and not model[1].weight.any()
    torch.testing.assert_close(model(images), model[1].bias[None, :, None, None].expand(2, 2, 6, 6))
