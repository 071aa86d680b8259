"""docs/extend/assigner.md: the assigners of the page train as written."""

import sys
from pathlib import Path

import pytest
import torch
from extend_page import step, write_files

from mmyolo_ext.apis import load_config
from mmyolo_ext.registry import MODELS, TASK_UTILS

GRIDS = [(8, 12), (4, 6), (2, 3)]
STRIDES = (8, 16, 32)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield load_config(write_files('assigner.md', tmp_path)).model
    for name in ('my_assigner', 'my_ratio_assigner'):
        sys.modules.pop(name, None)
    for name in ('BestAnchorAssigner', 'AreaAssigner'):
        TASK_UTILS.module_dict.pop(name, None)


def test_the_assigner_of_the_page_trains(model) -> None:
    detector = MODELS.build(model)
    assert step(detector)['loss_bbox'] > 0
    head = detector.bbox_head
    # sizes 16 x 30 and 59 x 119: anchor 1 of level 0, anchor 2 of level 1
    boxes = torch.tensor([[20.0, 44, 16, 30], [95, 63, 59, 119]])
    levels = head.assigner.assign(boxes, torch.tensor([1, 0]), head.anchors_wh, STRIDES, GRIDS)
    found = [[field.tolist() for field in level[:5]] for level in levels]
    # image, anchor, row, column, box: 44 / 8 and 20 / 8; 63 / 16 and 95 / 16
    assert found == [[[1], [1], [5], [2], [0]], [[0], [2], [3], [5], [1]], [[], [], [], [], []]]


def test_the_rule_of_the_page_trains(model) -> None:
    __import__('my_ratio_assigner')
    model.bbox_head.assigner = {'type': 'mmyolo_ext.AreaAssigner'}
    detector = MODELS.build(model)
    assert step(detector)['loss_bbox'] > 0
    fits = detector.bbox_head.assigner.fits(torch.tensor([[10.0, 10]]), torch.tensor([[19.0, 20], [20, 21], [5, 5.1]]))
    assert fits.tolist() == [[True, False, True]]  # 380, 420 and 25.5 of 100 px^2
