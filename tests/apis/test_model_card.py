"""Test the facts of a model card: the origin of the weights, their metrics, the portable config."""

from dataclasses import asdict

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import init_default_scope
from tiny_coco import REPO

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.model_card import Origin, find_origins, known_metrics, licence_warnings, pretrained_sources
from mmyolo_ext.apis.publishing import ABSOLUTE_PATH, compare, portable_config
from mmyolo_ext.apis.torch_model import class_names_of
from mmyolo_ext.checkpoint.network import describe
from mmyolo_ext.checkpoint.ultralytics import to_ultralytics
from mmyolo_ext.checkpoint.writing import plain
from mmyolo_ext.cli.convert_weights import convert_file
from mmyolo_ext.registry import MODELS

BCCD = REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'


def trained_from(place: str) -> dict:
    text = f'load_from = {place!r}\nmodel = dict(type="A", backbone=dict(type="B", init_cfg=None))'
    return {'state_dict': {'a': torch.zeros(1)}, 'meta': {'cfg': text}}


def test_a_chain_leads_to_the_tool_that_wrote_the_first(tmp_path):
    weights = MODELS.build(load_config(BCCD).model).state_dict()
    foreign, ours = tmp_path / 'best.pt', tmp_path / 'ours.pth'
    torch.save(to_ultralytics(weights, describe(weights)), foreign)
    convert_file(foreign, ours, 'auto', 'mmyolo_ext', BCCD)
    foreign_origin = Origin('best.pt', 'ultralytics', 'AGPL-3.0')
    # the file itself, converted, from a training, and from a training that started from that one
    assert find_origins({'load_from': str(foreign)}, {}, 'x.pth') == [foreign_origin]
    assert find_origins({'load_from': str(ours)}, {}, 'x.pth') == [foreign_origin]
    torch.save(trained_from(str(ours)), tmp_path / 'first.pth')
    assert find_origins({}, trained_from(str(tmp_path / 'first.pth')), 'x.pth') == [foreign_origin]
    # the file itself; and once published, when none of the others is there
    assert find_origins({}, torch.load(foreign), 'best.pt') == [foreign_origin]
    assert find_origins({}, {'meta': {'origins': [asdict(foreign_origin)]}}, 'x.pth') == [foreign_origin]
    broken = [{**asdict(foreign_origin), 'source': torch.zeros(1)}, {'source': 'a'}, 'a']
    assert (
        find_origins({}, {'meta': {'origins': broken}}, 'x.pth')
        == find_origins({}, {'meta': {'origins': 7}}, 'x.pth')
        == []
    )
    (warning,) = licence_warnings([foreign_origin], 'mit')
    assert warning.startswith('best.pt is under AGPL-3.0') and 'under mit' in warning
    # a circle ends
    torch.save(trained_from(str(tmp_path / 'loop.pth')), tmp_path / 'loop.pth')
    assert [origin.source for origin in find_origins({'load_from': str(tmp_path / 'loop.pth')}, {}, 'x')] == [
        'loop.pth'
    ]


@pytest.mark.parametrize(
    ('place', 'licence'),
    [
        ('torchvision://shufflenet_v2_x1_0', 'BSD-3-Clause'),
        ('https://download.pytorch.org/models/a.pth', 'BSD-3-Clause'),
        ('https://download.openmmlab.com/mmyolo/v0/yolov5/a.pth', 'GPL-3.0'),
        ('https://download.openmmlab.com/mmdetection/v3.0/a.pth', 'Apache-2.0'),
        ('https://github.com/ultralytics/yolov5/releases/download/v7.0/yolov5n.pt', 'AGPL-3.0'),
        ('https://example.org/a.pth', None),
        ('gone/a.pth', None),
    ],
)
def test_licences_of_places(place, licence):
    (origin,) = find_origins({'load_from': place}, {}, 'x.pth')
    assert origin.licence == licence and bool(licence_warnings([origin], None)) == (licence in ('GPL-3.0', 'AGPL-3.0'))
    assert ('cannot be read here' in str(origin)) == (place == 'gone/a.pth')


def test_places_in_a_config():
    model = {
        'backbone': {'type': 'TIMMBackbone', 'model_name': 'resnet18', 'pretrained': True},
        'neck': {'init_cfg': [{'type': 'Kaiming'}, {'type': 'Pretrained', 'checkpoint': 'n.pth'}]},
        'bbox_head': {'init_cfg': {'type': 'Normal'}},
        'weights': 'd.weights',
    }
    config = {'load_from': 'l.pth', 'model': model}
    assert list(pretrained_sources(config)) == ['l.pth', 'd.weights', 'TIMMBackbone resnet18', 'n.pth']
    assert list(pretrained_sources({})) == list(pretrained_sources({'load_from': None, 'model': {'type': 'A'}})) == []


def test_names_of_classes():
    init_default_scope('mmdet')
    assert class_names_of({'type': 'VOCDataset'})[:3] == ('aeroplane', 'bicycle', 'bird')
    assert class_names_of({'type': 'VOCDataset', 'metainfo': {'classes': ['cat']}}) == ('cat',)
    assert class_names_of({'type': 'mmyolo_ext.CheckedCocoDataset', 'metainfo': {'classes': 'cat'}}) == ('cat',)
    assert class_names_of({'type': 'BaseDetDataset'}) is None


def test_a_published_config_starts_from_nothing():
    cfg = load_config(BCCD, {'load_from': 'l.pth', 'data_root': '/data/cells/'})
    cfg.work_dir = '/data/me/work'
    cfg.model.backbone.init_cfg = {'type': 'Pretrained', 'checkpoint': '/data/me/b.pth'}
    published = portable_config(cfg)
    assert list(pretrained_sources(published)) == [] and list(pretrained_sources(cfg)) == ['l.pth', '/data/me/b.pth']
    found = dict.fromkeys(ABSOLUTE_PATH.findall(published.pretty_text))
    assert sorted(found) == ['/data/cells/', '/data/cells/annotations/test.json']
    cfg.model.backbone.init_cfg = [
        {'type': 'Pretrained', 'checkpoint': 'b.pth'},
        {'type': 'Kaiming', 'layer': 'Conv2d'},
    ]
    assert [init.type for init in portable_config(cfg).model.backbone.init_cfg] == ['Kaiming']


@pytest.mark.parametrize('config', ['retinanet', 'faster-rcnn'])
def test_detectors_of_mmdet_are_compared_too(config):
    (path,) = (REPO / 'configs' / 'mixed').glob(f'{config}_shufflenetv2-1.0_*.py')
    init_default_scope('mmdet')
    one, other = (MODELS.build(load_config(path).model).eval() for _ in range(2))
    other.load_state_dict(one.state_dict())
    difference, largest = compare(one, other)
    assert difference == 0 < largest
    # all convolutions of the dense head are compared
    head = other.bbox_head if config == 'retinanet' else other.rpn_head
    last = list(head.parameters())[-1]
    last.data += 0.5
    assert compare(one, other)[0] == pytest.approx(0.5, rel=1e-4)


def checkpoint(epoch: int, best: str | None) -> dict:
    buffer = HistoryBuffer()
    buffer.update(0.25)
    buffer.update(0.5)
    return {
        'meta': {'epoch': epoch, 'iter': 10 * epoch},
        'message_hub': {
            'runtime_info': {'best_ckpt': best} if best else {},
            'log_scalars': {'val/coco/bbox_mAP': buffer, 'val/coco/cat_precision': buffer, 'train/loss': buffer},
        },
    }


def test_metrics_are_those_of_the_weights_and_of_no_others():
    best = 'work/best_coco_bbox_mAP_epoch_3.pth'
    metrics = known_metrics(checkpoint(3, best))
    assert metrics.values == {'bbox_mAP': 0.5, 'cat_precision': 0.5} and metrics.overall == {'AP50-95': 0.5}
    # histories are stored as plain data in newer checkpoints
    assert known_metrics(plain(checkpoint(3, best))) == metrics
    # a checkpoint of epoch 4 holds the metrics of epoch 3
    assert known_metrics(checkpoint(4, best)) is None
    assert known_metrics(checkpoint(3, None)) is None and known_metrics({}) is None
