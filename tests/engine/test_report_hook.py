"""A training's report shows its best validation; a report that fails does not end the run."""

import logging
from types import SimpleNamespace

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


def test_the_best_validation_is_shown(runner, tmp_path):
    hook = ReportHook(min_precision=0.9)
    hook.before_train(runner)
    for epoch, score in enumerate((0.2, 0.5, 0.5, 0.1), 1):
        runner.epoch, runner.metric.predictions = epoch, [{'epoch': epoch}]
        hook.after_val_epoch(runner, {'coco/bbox_mAP': 1 - score, 'coco/bbox_mAP_50': score})
    hook.after_train(runner)
    ((folder, predictions, parts),) = runner.metric.written
    assert folder == tmp_path / 'report' and predictions == [{'epoch': 2}]
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
        runner.epoch, runner.metric.predictions = epoch, [{'epoch': epoch}]
        hook.after_val_epoch(runner, {'coco/bbox_mAP': score, 'coco/bbox_mAP_50': 1 - score})
    hook.after_train(runner)
    assert runner.metric.written[0][1] == [{'epoch': 3}]


def test_a_test_shows_itself(runner):
    runner.metric.predictions = [{'a': 1}]
    ReportHook().after_test(runner)
    ((_, predictions, parts),) = runner.metric.written
    assert predictions == [{'a': 1}] and parts['facts']['split'] == 'test'
    assert parts['facts']['checkpoint'] == 'best.pth' and parts['train_ground_truth'] is None


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
