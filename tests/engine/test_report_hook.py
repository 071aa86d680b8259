"""A training's report shows its best validation; a report that fails does not end the run."""

import logging
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from mmengine.config import Config
from torch import nn

from mmyolo_ext.engine.hooks import ReportHook


class Metric:
    """Notes what it is asked to write."""

    def __init__(self) -> None:
        self.predictions, self.written, self.error = [], [], None

    def write_report(self, folder, predictions, **parts):
        if self.error:
            raise self.error
        self.written.append((folder, predictions, parts))
        return folder / 'index.html'


class Leaf:
    data_prefix = {'img': 'images'}
    source = 'val.json'

    def get_data_info(self, index):
        return {}

    def __len__(self):
        return 3


@pytest.fixture
def runner(tmp_path):
    metric = Metric()
    loop = SimpleNamespace(
        evaluator=SimpleNamespace(metrics=[object(), metric]),
        dataloader=SimpleNamespace(dataset=SimpleNamespace(dataset=Leaf())),
    )
    return SimpleNamespace(
        work_dir=str(tmp_path),
        cfg=Config({'default_hooks': {'checkpoint': {'save_best': 'coco/bbox_mAP_50'}}, 'load_from': 'best.pth'}),
        model=nn.Linear(2, 3),
        logger=logging.getLogger('test_report_hook'),
        message_hub=SimpleNamespace(get_info=lambda name: f'{name}.pth'),
        val_loop=loop,
        test_loop=loop,
        _train_loop={},
        max_epochs=4,
        seed=7,
        metric=metric,
    )


def found(epoch: int) -> list[dict]:
    """Predictions that tell their epoch: of two images, one without boxes."""
    some = {'bboxes': np.full((epoch, 4), epoch / 3), 'scores': np.full(epoch, 0.5), 'labels': np.arange(epoch)}
    return [{'img_id': 3, **some}, {'img_id': 1, **{name: value[:0] for name, value in some.items()}}]


def validate(hook, runner, scores, start=1, name='coco/bbox_mAP'):
    for epoch, score in enumerate(scores, start):
        runner.epoch, runner.metric.predictions = epoch, found(epoch)
        hook.after_val_epoch(runner, {name: score})


def shown_epoch(runner) -> int:
    """The epoch of the predictions in the last report, all of which are as they were."""
    shown = runner.metric.written[-1][1]
    epoch = len(shown[0]['scores'])
    assert [one['img_id'] for one in shown] == [3, 1] and len(shown[1]['scores']) == 0
    assert all(np.array_equal(one[key], own[key]) for one, own in zip(shown, found(epoch), strict=True) for key in own)
    assert runner.metric.written[-1][2]['facts']['best epoch'] == f'{epoch} of 4'
    return epoch


def test_less_is_better_by_the_rule(runner):
    for setting, best in (({'rule': 'less'}, 2), ({'rule': ['less', 'greater']}, 2), ({}, 3)):
        runner.cfg.default_hooks.checkpoint = {'save_best': ['val/error'], **setting}
        hook = ReportHook()
        hook.before_train(runner)
        validate(hook, runner, (0.4, 0.1, 0.6), name='val/error')
        hook.after_train(runner)
        assert shown_epoch(runner) == best


def test_a_resumed_training_shows_the_best_since_its_start(runner):
    runner.cfg.default_hooks.checkpoint.save_best = 'coco/bbox_mAP'
    for resumed_at, later, best in ((2, (0.3, 0.4), 2), (2, (0.3, 0.7), 4), (1, (0.3, 0.4, 0.2), 3)):
        first, second = ReportHook(), ReportHook()
        runner.resumed, runner.epoch = False, 0
        first.before_train(runner)
        validate(first, runner, (0.1, 0.5))
        runner.resumed, runner.epoch = True, resumed_at  # from the checkpoint of epoch 1, the second is repeated
        second.before_train(runner)
        validate(second, runner, later, start=resumed_at + 1)
        second.after_train(runner)
        assert shown_epoch(runner) == best
    (Path(runner.work_dir) / 'best_predictions.npz').write_bytes(b'damaged')
    second.before_train(runner)
    validate(second, runner, (0.1,), start=4)
    second.after_train(runner)
    assert shown_epoch(runner) == 4


def test_the_best_validation_is_shown(runner, tmp_path):
    hook = ReportHook(min_precision=0.9)
    hook.before_train(runner)
    for epoch, score in enumerate((0.2, 0.5, 0.5, 0.1), 1):
        runner.epoch, runner.metric.predictions = epoch, found(epoch)
        hook.after_val_epoch(runner, {'coco/bbox_mAP': 1 - score, 'coco/bbox_mAP_50': score})
    hook.after_train(runner)
    ((folder, _, parts),) = runner.metric.written
    assert folder == tmp_path / 'report' and shown_epoch(runner) == 2
    facts = parts['facts']
    assert (
        facts['best epoch'] == '2 of 4' and facts['checkpoint'] == 'best_ckpt.pth' and facts['split'] == 'validation'
    )
    assert facts['evaluated data'] == 'val.json (3 images)' and facts['model'].endswith('9 parameters')
    assert facts['min_precision'] == 0.9 and parts['image_root'] == 'images' and facts['seed'] == 7


def test_save_best_auto_is_the_first_metric_and_nan_is_below_all(runner):
    runner.cfg.default_hooks.checkpoint.save_best = 'auto'
    hook = ReportHook()
    hook.before_train(runner)
    for epoch, score in enumerate((float('nan'), 0.2, 0.5, 0.1), 1):
        runner.epoch, runner.metric.predictions = epoch, found(epoch)
        hook.after_val_epoch(runner, {'coco/bbox_mAP': score, 'coco/bbox_mAP_50': 1 - score})
    hook.after_train(runner)
    assert shown_epoch(runner) == 3


def test_a_test_shows_itself(runner):
    runner.metric.predictions = [{'a': 1}]
    ReportHook().after_test(runner)
    ((_, predictions, parts),) = runner.metric.written
    assert predictions == [{'a': 1}] and parts['facts']['split'] == 'test'
    assert parts['facts']['checkpoint'] == 'best.pth' and parts['train_ground_truth'] is None
    assert parts['facts']['title'] == 'Test of best'


def test_a_report_that_cannot_be_written_is_a_warning(runner, caplog):
    runner.metric.error = OSError('no space\nleft')
    ReportHook().after_test(runner)
    assert caplog.messages == ['The report was not written: OSError: no space left']


def test_without_a_metric_that_writes_reports_nothing_is_written(runner):
    runner.val_loop.evaluator.metrics.pop()
    hook = ReportHook()
    hook.before_train(runner)
    runner.epoch = 1
    hook.after_val_epoch(runner, {})
    hook.after_train(runner)
    hook.after_test(runner)
    assert runner.metric.written == []


def test_a_precision_out_of_range_is_refused():
    with pytest.raises(ValueError, match=r'min_precision must be above 0 and at most 1, got 90'):
        ReportHook(min_precision=90)
