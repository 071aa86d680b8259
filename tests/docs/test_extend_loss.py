"""docs/extend/loss.md: the losses of the page train as written."""

import sys
from pathlib import Path

import pytest
import torch
from extend_page import step, write_files

from mmyolo_ext.apis import load_config
from mmyolo_ext.registry import MODELS


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield load_config(write_files('loss.md', tmp_path)).model
    for name in ('my_losses', 'my_wrapper'):
        sys.modules.pop(name, None)
    for name in ('WarmupHuber', 'PolyBCE', 'QualityWeighted'):
        MODELS.module_dict.pop(name, None)


def test_the_losses_of_the_page_train(model) -> None:
    detector = MODELS.build(model)
    first, second = step(detector), step(detector)
    assert list(first) == ['loss_cls', 'loss_bbox', 'loss_huber', 'loss_obj']
    assert 0 < first['loss_huber'] < second['loss_huber']  # the ramp
    # of logits z against 1: 0.5 (ln(1 + e^-z) + 1 - sigma(z)); 0.5 (ln 2 + 1/2) at 0
    loss = MODELS.build({'type': 'mmyolo_ext.PolyBCE'})(torch.zeros(2, 3), torch.ones(2, 3))
    assert loss.flatten().tolist() == pytest.approx([0.5 * (0.6931472 + 0.5)] * 6)


def test_padding_changes_nothing(model) -> None:
    losses = []
    for padded in (False, True):
        torch.manual_seed(0)
        model.bbox_head.assigner = {'type': 'mmyolo_ext.YOLOv5Assigner', 'padded': padded}
        detector = MODELS.build(model)
        step(detector)  # the ramp starts at zero
        losses.append(step(detector))
    torch.testing.assert_close(*losses)


def test_the_wrapper_of_the_page_trains(model) -> None:
    __import__('my_wrapper')
    model.bbox_head.loss_cls = {'type': 'mmyolo_ext.QualityWeighted', 'loss': {'type': 'mmyolo_ext.BCELoss'}}
    weighted = step(MODELS.build(model))['loss_cls']
    torch.manual_seed(0)
    model.bbox_head.loss_cls = {'type': 'mmyolo_ext.BCELoss'}
    assert 0 < weighted < step(MODELS.build(model))['loss_cls']
