"""What a model card is made of: where weights came from, and which figures are theirs."""

import json
from pathlib import Path

import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.registry import init_default_scope
from tiny_coco import REPO

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.class_names import class_names_of
from mmyolo_ext.apis.conversion import convert_file
from mmyolo_ext.apis.publishing.card import licence_warnings
from mmyolo_ext.apis.publishing.check import compare
from mmyolo_ext.apis.publishing.known_ap import known_figures
from mmyolo_ext.apis.publishing.origin import Origin, origins, places
from mmyolo_ext.apis.publishing.portable import local_paths, portable
from mmyolo_ext.checkpoint.writing import plain
from mmyolo_ext.registry import MODELS
from mmyolo_ext.weights import describe, to_ultralytics

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
    # as it is, converted, from a training, and from one that went on from that
    assert origins({'load_from': str(foreign)}, {}, 'x.pth') == [foreign_origin]
    assert origins({'load_from': str(ours)}, {}, 'x.pth') == [foreign_origin]
    torch.save(trained_from(str(ours)), tmp_path / 'first.pth')
    assert origins({}, trained_from(str(tmp_path / 'first.pth')), 'x.pth') == [foreign_origin]
    # the file itself; and once published, when none of the others is there
    assert origins({}, torch.load(foreign), 'best.pt') == [foreign_origin]
    assert origins({}, {'meta': {'origins': [foreign_origin._asdict()]}}, 'x.pth') == [foreign_origin]
    broken = [{**foreign_origin._asdict(), 'place': torch.zeros(1)}, {'place': 'a'}, 'a']
    assert origins({}, {'meta': {'origins': broken}}, 'x.pth') == origins({}, {'meta': {'origins': 7}}, 'x.pth') == []
    (warning,) = licence_warnings([foreign_origin], 'mit')
    assert warning.startswith('best.pt is under AGPL-3.0') and 'under mit' in warning
    # a circle ends
    torch.save(trained_from(str(tmp_path / 'loop.pth')), tmp_path / 'loop.pth')
    assert [origin.place for origin in origins({'load_from': str(tmp_path / 'loop.pth')}, {}, 'x')] == ['loop.pth']


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
    (origin,) = origins({'load_from': place}, {}, 'x.pth')
    assert origin.licence == licence and origin.copyleft == (licence in ('GPL-3.0', 'AGPL-3.0'))
    assert bool(licence_warnings([origin], None)) == origin.copyleft
    assert ('not there' in str(origin)) == (place == 'gone/a.pth')


def test_places_in_a_config():
    model = {
        'backbone': {'type': 'TIMMBackbone', 'model_name': 'resnet18', 'pretrained': True},
        'neck': {'init_cfg': [{'type': 'Kaiming'}, {'type': 'Pretrained', 'checkpoint': 'n.pth'}]},
        'bbox_head': {'init_cfg': {'type': 'Normal'}},
        'weights': 'd.weights',
    }
    config = {'load_from': 'l.pth', 'model': model}
    assert list(places(config)) == ['l.pth', 'd.weights', 'TIMMBackbone resnet18', 'n.pth']
    assert list(places({})) == list(places({'load_from': None, 'model': {'type': 'A'}})) == []


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
    told = portable(cfg)
    assert list(places(told)) == [] and list(places(cfg)) == ['l.pth', '/data/me/b.pth']
    assert local_paths(told) == ['/data/cells/', '/data/cells/annotations/test.json']
    cfg.model.backbone.init_cfg = [
        {'type': 'Pretrained', 'checkpoint': 'b.pth'},
        {'type': 'Kaiming', 'layer': 'Conv2d'},
    ]
    assert [init.type for init in portable(cfg).model.backbone.init_cfg] == ['Kaiming']


@pytest.mark.parametrize('config', ['retinanet', 'faster-rcnn'])
def test_detectors_of_mmdet_are_compared_too(config):
    (path,) = (REPO / 'configs' / 'mixed').glob(f'{config}_shufflenetv2-1.0_*.py')
    init_default_scope('mmdet')
    one, other = (MODELS.build(load_config(path).model).eval() for _ in range(2))
    other.load_state_dict(one.state_dict())
    batch = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    difference = compare(one, other, batch)
    assert difference.outputs == 0 < difference.largest_output and difference.boxes_px is None
    # every convolution of a dense head has its outputs among those compared
    head = other.bbox_head if config == 'retinanet' else other.rpn_head
    last = list(head.parameters())[-1]
    last.data += 0.5
    assert compare(one, other, batch).outputs == pytest.approx(0.5, rel=1e-4)


def checkpoint(epoch: int, best: str | None, run: str = '20260102_000000') -> dict:
    buffer = HistoryBuffer()
    buffer.update(0.25)
    buffer.update(0.5)
    told = {'best_ckpt': best} if best else {}
    return {
        'meta': {'epoch': epoch, 'iter': 10 * epoch, 'experiment_name': f'x_{run}'},
        'message_hub': {
            'runtime_info': told,
            'log_scalars': {'val/coco/bbox_mAP': buffer, 'val/coco/cat_precision': buffer, 'train/loss': buffer},
        },
    }


def write_log(folder: Path, run: str, figures: dict[int, float]) -> None:
    rows = [{'epoch': epoch, 'loss': 1.0, 'step': 10 * epoch} for epoch in figures]
    rows += [{'step': epoch, 'coco/bbox_mAP': value} for epoch, value in figures.items()]
    (folder / run / 'vis_data').mkdir(parents=True)
    (folder / run / 'vis_data' / 'scalars.json').write_text('\n'.join(map(json.dumps, rows)))


def test_figures_are_those_of_the_weights_and_of_no_others(tmp_path):
    path = tmp_path / 'a.pth'
    best = 'work/best_coco_bbox_mAP_epoch_3.pth'
    figures = known_figures(checkpoint(3, best), path)
    assert figures.values == {'bbox_mAP': 0.5, 'cat_precision': 0.5} and figures.of_class('cat') == 0.5
    # as checkpoints keep histories since they hold plain data alone
    assert known_figures(plain(checkpoint(3, best)), path) == figures
    # saved before its own validation: what the file holds is of epoch 3
    assert known_figures(checkpoint(4, best), path) is None
    assert known_figures(checkpoint(3, None), path) is None and known_figures({}, path) is None

    write_log(tmp_path, '20260101_000000', {1: 0.1, 2: 0.2})
    write_log(tmp_path, '20260102_000000', {2: 0.3, 4: 0.4})  # went on after epoch 1
    write_log(tmp_path, '20260103_000000', {1: 0.7, 4: 0.9})  # another training in the same folder

    def of(epoch: int, run: str) -> float | None:
        found = known_figures(checkpoint(epoch, best, run), path)
        return found and found.overall['AP50-95']

    assert of(4, '20260102_000000') == 0.4 and of(1, '20260102_000000') == 0.1
    assert of(2, '20260101_000000') == 0.2 and of(2, '20260102_000000') == 0.3
    assert of(5, '20260102_000000') is None and of(4, '20260109_000000') is None
    with (tmp_path / '20260101_000000' / 'vis_data' / 'scalars.json').open('a') as log:
        log.write('\n{"step": 3, "coco/bb')
    assert of(4, '20260102_000000') is None
