"""A training reads each annotation file twice: before its first step, and for the check of the data in its report."""

import os
import sys
from collections import Counter
from pathlib import Path

import pytest
from data_formats import make_coco_folder, make_labelme, make_voc, make_yolo_roboflow

from mmyolo_ext import coco_json
from mmyolo_ext.apis.training import train
from mmyolo_ext.coco_json import drop_annotations, keep_annotations, read_coco
from mmyolo_ext.evaluation import CocoMetric

SETTINGS = {
    'model.backbone.widen_factor': 0.125,
    'model.neck.widen_factor': 0.125,
    'train_dataloader.num_workers': 0,
    'val_dataloader.num_workers': 0,
    'default_hooks.curves': None,
    'log_level': 'WARNING',
}
opened: list[str] = []


@pytest.fixture(scope='module')
def watch():
    """Return a list of the paths that are opened while it is in use."""
    watching = [True]
    sys.addaudithook(lambda event, args: event == 'open' and watching[0] and opened.append(str(args[0])))
    yield
    watching[0] = False  # audit hooks cannot be removed


# the first XML file of a folder and the first JSON files of labelme are opened once more, to tell their format
@pytest.mark.parametrize(
    ('make', 'more'), [(make_coco_folder, ''), (make_yolo_roboflow, ''), (make_voc, '1.xml'), (make_labelme, '.json')]
)
def test_a_training_reads_annotations_twice(make, more, watch, tmp_path, monkeypatch):
    data, pages = make(tmp_path / 'bees'), []
    monkeypatch.setattr(CocoMetric, 'write_report', lambda *_, **parts: pages.append(parts))
    opened.clear()
    train('yolov5_n', data, epochs=1, batch_size=2, img_scale=32, work_dir=tmp_path / 'out', **SETTINGS)
    counts = Counter(path for path in opened if str(tmp_path / 'bees') in path)
    counts = {path: count for path, count in counts.items() if Path(path).suffix in ('.json', '.xml', '.txt', '.yaml')}
    assert len(counts) > 1
    assert {path: n for path, n in counts.items() if n > 2 + bool(more and path.endswith(more))} == {}
    assert coco_json._kept is None  # the training does not keep them
    (page,) = pages
    assert page['train_ground_truth']['annotations'] and 'data-check' in page['data_section']


def test_a_changed_file_is_read_again(write_coco):
    path = write_coco()
    keep_annotations()
    try:
        content = read_coco(str(path))
        assert read_coco(str(path)) is content
        os.utime(path, (1, 1))
        again = read_coco(str(path))
        assert again is not content and again == content
    finally:
        drop_annotations()
    assert read_coco(str(path)) is not read_coco(str(path))
