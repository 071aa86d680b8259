"""Predictions on tiles of large images composed of BCCD, and the setting ``tile`` of a config."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.registry import DATASETS, init_default_scope
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.apis.recipe import read_data
from mmyolo_ext.cli import voc2coco
from mmyolo_ext.cli.predict import parse_args
from mmyolo_ext.evaluation.coco_metric import CocoMetric

sys.path.insert(0, str(REPO / 'benchmarks'))

from tiling import SIZE_WH, compose

CLASSES = ('RBC', 'WBC', 'Platelets')


def average_precision(detector: Detector, content: dict, folder: Path) -> dict[str, float]:
    (folder / 'large.json').write_text(json.dumps(content))
    # 36 images of 13 boxes are one image here: more detections than COCO's 100
    metric = CocoMetric(ann_file=str(folder / 'large.json'), proposal_nums=(100, 300, 3000))
    metric.dataset_meta = {'classes': CLASSES}
    for image in content['images']:
        boxes, scores, labels = detector(folder / image['file_name'], score_thr=0.01)
        found = {'img_id': image['id'], 'bboxes': boxes, 'scores': scores, 'labels': labels}
        metric.results.append(({'img_id': image['id'], 'width': SIZE_WH[0], 'height': SIZE_WH[1]}, found))
    return metric.evaluate(len(content['images']))


@pytest.fixture(scope='module')
def weights(golden_dir):
    return REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py', golden_dir / 'yolov5n_bccd.pt', 'cpu'


def test_ap_on_a_large_image(weights, bccd_dir, tmp_path):
    voc2coco.main([str(bccd_dir), str(tmp_path), '--classes', *CLASSES, '--one-based'])
    coco = json.loads((tmp_path / 'test.json').read_text())
    content = compose({**coco, 'images': coco['images'][:36]}, bccd_dir / 'JPEGImages', tmp_path)
    assert len(content['images']) == 1 and len(content['annotations']) > 400
    whole, tiled = (
        average_precision(Detector(*weights, nms_iou=None, **tile), content, tmp_path)['coco/bbox_mAP']
        for tile in ({}, {'tile': 640, 'overlap': 0.25})
    )
    # at 320 px, cells of 100 px of the whole image are 8 px, those of a tile 50 px as in training
    assert whole < 0.02 and tiled > 0.48


def test_a_tile_as_large_as_the_image_changes_nothing(weights, bccd_dir):
    images = sorted((bccd_dir / 'JPEGImages').glob('*.jpg'))[:3]
    plain, tiled = Detector(*weights), Detector(*weights, tile=640)
    for one, other in zip(plain(images), tiled(images), strict=True):
        assert len(one.scores) > 5 and other.image_hw == (480, 640)
        for field in ('boxes_xyxy', 'scores', 'labels'):
            np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize('merge_by', ['nms', 'wbf'])
def test_objects_across_borders_have_one_box(weights, bccd_dir, merge_by):
    """Images of BCCD cut into two at nearly the scale of the training: as many objects as on the whole images."""
    images = sorted((bccd_dir / 'JPEGImages').glob('*.jpg'))[41:45]
    plain, tiled = Detector(*weights), Detector(*weights, tile=560, merge_by=merge_by)
    counts = [sum((found.scores > 0.5).sum() for found in detector(images)) for detector in (plain, tiled)]
    assert counts[0] > 40 and abs(counts[1] - counts[0]) <= 0.15 * counts[0]


def test_refused_arguments(weights):
    with pytest.raises(ValueError, match='at least 32 px, got 4'):
        Detector(*weights, tile=4)
    with pytest.raises(ValueError, match='from 0 to 0.9 of their side, got 1.5'):
        Detector(*weights, tile=640, overlap=1.5)
    with pytest.raises(ValueError, match="merged by nms or wbf, got 'mean'"):
        Detector(*weights, tile=640, merge_by='mean')
    args = parse_args(['best.pth', 'a.jpg', '--tile', '640', '--overlap', '0.3', '--merge-by', 'wbf'])
    assert (args.tile, args.overlap, args.merge_by) == (640, 0.3, 'wbf')


def test_the_setting_tile(tmp_path):
    data = make_tiny_coco(tmp_path / 'data')
    extra = 'tile = dict(size=40, overlap=0.5, background=1.0)'
    cfg = load_config(write_user_config(tmp_path / 'mine.py', data, extra=extra))
    init_default_scope('mmdet')
    train, val = (DATASETS.build(loader.dataset) for loader in (cfg.train_dataloader, cfg.val_dataloader))
    # sides of 64, 48 and 40 px have 3, 2 and 1 tiles: images of 9, 6 and 3 tiles
    assert len(train) == 2 * (9 + 6 + 3) and len(val) == 9 + 6 + 3 + 9 + 6
    assert train[0]['inputs'].shape == (3, 64, 64) and val[0]['data_samples'].ori_shape == (40, 40)
    assert cfg.val_evaluator.type == cfg.test_evaluator.type == 'mmyolo_ext.TiledCocoMetric'
    assert 'tile' not in cfg and read_data(cfg)[0] == len(train)
    by_option = load_config(write_user_config(tmp_path / 'other.py', data), {'tile': 40})
    assert by_option.val_dataloader.dataset.dataset.size == 40
    with pytest.raises(ValueError, match=r"tile must be the side .*got \{'width': 3\}"):
        load_config(write_user_config(tmp_path / 'wrong.py', data, extra='tile = dict(width=3)'))
