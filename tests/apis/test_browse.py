"""What the network receives, and the positives of our head and of mmdet's, against slow counts."""

import json
import re

import cv2
import numpy as np
import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData

from mmyolo_ext.apis.browse import _images, browse, draw, find_positives, write
from mmyolo_ext.apis.training import read_run_config
from mmyolo_ext.cli.browse import main
from mmyolo_ext.registry import MODELS
from tests.tiny_coco import make_tiny_coco, write_user_config

SIZE = 128
BOXES = [[[20.0, 24.0, 52.0, 60.0], [70.0, 60.0, 120.0, 110.0]], [[8.0, 8.0, 40.0, 30.0]]]


@pytest.fixture(scope='module')
def user_config(tmp_path_factory):
    folder = tmp_path_factory.mktemp('browse')
    return write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'), extra='input_size = 128')


def test_positives_of_our_head_are_those_of_a_loop(user_config):
    cfg = read_run_config(user_config, None, 'auto', {})
    found, source = browse(cfg, 3)
    assert 'YOLOv5Assigner' in source and len(found) == 3
    anchors = cfg.model.bbox_head.get('prior_generator')['base_sizes']
    expected, got = set(), set()
    for number, one in enumerate(found):
        assert one.image.shape == (128, 128, 3) and one.image.std() > 5
        got |= {(number, p.box, p.level, p.anchor, *p.cell_xy) for p in one.positives}
        for index, (x1, y1, x2, y2) in enumerate(one.boxes_xyxy.tolist()):
            for level, stride in enumerate((8, 16, 32)):
                for anchor, sides in enumerate(anchors[level]):
                    ratios = [(x2 - x1) / sides[0], (y2 - y1) / sides[1]]
                    if max(max(ratio, 1 / ratio) for ratio in ratios) >= 4:
                        continue
                    x, y, cells = (x1 + x2) / 2 / stride, (y1 + y2) / 2 / stride, SIZE // stride
                    column, row = int(x), int(y)
                    # the nearer neighbour on each axis, if it is inside the grid
                    near_x, near_y = (at + (-1 if value % 1 < 0.5 else 1) for at, value in ((column, x), (row, y)))
                    places = [(column, row), (near_x, row), (column, near_y)]
                    places = [place for place in places if min(place) >= 0 and max(place) < cells]
                    expected |= {(number, index, level, anchor, *place) for place in places}
    assert got == expected and got


def test_the_image_is_what_was_normalized():
    preprocessor = MODELS.build(
        {
            'type': 'mmyolo_ext.DataPreprocessor',
            'mean': [120.0, 110.0, 100.0],
            'std': [58.0, 57.0, 56.0],
            'bgr_to_rgb': True,
        }
    )
    image = torch.randint(0, 256, (1, 3, 64, 64), dtype=torch.uint8)
    instances = InstanceData(bboxes=torch.zeros(0, 4), labels=torch.zeros(0, dtype=torch.long))
    ignored = InstanceData(bboxes=torch.tensor([[1.0, 2, 30, 40]]))
    sample = DetDataSample(gt_instances=instances, ignored_instances=ignored, metainfo={'img_path': 'a.jpg'})
    data = preprocessor({'inputs': image.clone(), 'data_samples': [sample]}, training=True)
    (one,) = _images(data, preprocessor, ('a',))
    assert (one.image == image[0].permute(1, 2, 0).numpy()).all()
    assert one.ignored_xyxy.tolist() == [[1, 2, 30, 40]]
    drawn = draw(one)
    assert drawn.shape[1] > drawn.shape[0] and (drawn[100, 100] != image[0, :, 12, 12].numpy()).any()


def batch():
    samples = []
    for boxes in BOXES:
        labels = torch.zeros(len(boxes), dtype=torch.long)
        sample = DetDataSample(gt_instances=InstanceData(bboxes=torch.tensor(boxes), labels=labels))
        sample.set_metainfo({'img_shape': (SIZE, SIZE), 'pad_shape': (SIZE, SIZE), 'batch_input_shape': (SIZE, SIZE)})
        sample.ignored_instances = InstanceData(bboxes=torch.zeros(0, 4))
        samples.append(sample)
    return {'inputs': torch.rand(2, 3, SIZE, SIZE), 'data_samples': samples}


def mmdet_model(head, train_cfg=None):
    init_default_scope('mmdet')
    neck = {'type': 'mmdet.FPN', 'in_channels': [48, 96], 'out_channels': 32, 'num_outs': 2}
    model = {
        'type': 'mmdet.SingleStageDetector',
        'backbone': {'type': 'mmyolo_ext.ShuffleNetV2', 'widen_factor': 0.5, 'out_indices': (1, 2)},
        'neck': neck,
        'bbox_head': {'num_classes': 1, 'in_channels': 32, 'feat_channels': 32, 'stacked_convs': 1, **head},
        'train_cfg': train_cfg,
        'test_cfg': {},
    }
    return MODELS.build(model)


def iou(a, b):
    width, height = (min(a[2 + axis], b[2 + axis]) - max(a[axis], b[axis]) for axis in (0, 1))
    shared = max(width, 0) * max(height, 0)
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def test_positives_of_retinanet_are_those_of_a_loop():
    anchors = {'type': 'mmdet.AnchorGenerator', 'ratios': [1.0], 'scales': [4.0], 'strides': [8, 16]}
    assigner = {'type': 'mmdet.MaxIoUAssigner', 'pos_iou_thr': 0.4, 'neg_iou_thr': 0.3, 'min_pos_iou': 0}
    sampler = {'type': 'mmdet.PseudoSampler'}
    train_cfg = {'assigner': assigner, 'sampler': sampler, 'allowed_border': -1, 'pos_weight': -1}
    model = mmdet_model({'type': 'mmdet.RetinaHead', 'anchor_generator': anchors}, train_cfg)
    positives, source = find_positives(model, batch())
    assert source == "positives by the head's own bbox_head.assigner"
    for found, boxes in zip(positives, BOXES, strict=True):
        expected = []
        for level, stride in enumerate((8, 16)):
            half = 2 * stride
            for y in range(0, SIZE, stride):
                for x in range(0, SIZE, stride):
                    prior = (x - half, y - half, x + half, y + half)
                    overlaps = [iou(prior, box) for box in boxes]
                    if max(overlaps) >= 0.4:
                        expected.append((overlaps.index(max(overlaps)), level, prior))
        got = [(one.box, one.level, one.prior) for one in found]
        assert expected and set(expected) == set(got)


def test_positives_of_fcos_are_those_of_a_loop():
    ranges = ((-1, 32), (32, 1000))
    head = {'type': 'mmdet.FCOSHead', 'strides': [8, 16], 'regress_ranges': ranges, 'norm_on_bbox': True}
    positives, source = find_positives(mmdet_model(head), batch())
    assert 'get_targets' in source
    for found, boxes in zip(positives, BOXES, strict=True):
        expected = set()
        for level, (stride, (low, high)) in enumerate(zip((8, 16), ranges, strict=True)):
            for row in range(SIZE // stride):
                for column in range(SIZE // stride):
                    x, y = (column + 0.5) * stride, (row + 0.5) * stride
                    for index, (x1, y1, x2, y2) in enumerate(boxes):
                        sides = (x - x1, y - y1, x2 - x, y2 - y)
                        if min(sides) > 0 and low <= max(sides) <= high:
                            expected.add((index, level, (column, row)))
        assert expected and {(one.box, one.level, one.cell_xy) for one in found} == expected


def test_the_command(user_config, tmp_path, capsys):
    main([str(user_config), '--html', '--count', '2', '--out', str(tmp_path / 'seen')])
    out = capsys.readouterr().out
    assert re.search(r'bbox_head.assigner: \d+ positives .*boxes without any', out)
    page = (tmp_path / 'seen/index.html').read_text()
    assert page.count('src="data:image/jpeg;base64,') == 2 and 'http' not in page
    content = json.loads((tmp_path / 'seen/positives.json').read_text())
    assert sum(len(one['positives']) for one in content) == int(re.search(r'(\d+) positives', out)[1])
    found, _ = browse(read_run_config(user_config, None, 'auto', {}), 1)
    (_, file) = write(found, '', tmp_path / 'images', False, '')
    assert np.ptp(cv2.imread(str(file))) > 100
