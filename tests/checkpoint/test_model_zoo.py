"""Weights by name: resolved from the packages' own lists, checked by their hash, kept in checkpoints and cards."""

import hashlib
import re
from pathlib import Path

import pytest
import torch
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader
from tiny_coco import REPO, make_tiny_coco, tiny_options

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.model_card import find_origins
from mmyolo_ext.apis.start import check_start
from mmyolo_ext.checkpoint import model_zoo
from mmyolo_ext.checkpoint.matching import LoadReport
from mmyolo_ext.checkpoint.mmengine_loader import install_reader
from mmyolo_ext.checkpoint.model_zoo import find_weights, origins_in
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.registry import RUNNERS

OPENMMLAB = 'https://download.openmmlab.com/mmdetection/'
TINY = REPO / 'configs/yolov5_rtmdet/yolov5_rtmdet-tiny_320_bccd.py'


@pytest.mark.parametrize(
    ('name', 'end', 'digest'),
    [
        ('mmdet::rtmdet_tiny', 'rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth', '78e30dcc'),
        ('mmdet::rtmdet-t', 'rtmdet_tiny_8xb32-300e_coco_20220902_112414-78e30dcc.pth', '78e30dcc'),  # its alias
        ('mmdet::yolox_s', 'yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth', '4592a793'),
        # the stem of its config, whose spelling differs from that of the name
        ('mmdet::yolox_s_8xb8-300e_coco', 'yolox_s_8x8_300e_coco_20211121_095711-4592a793.pth', '4592a793'),
    ],
)
def test_names_of_mmdet(name, end, digest):
    weights = find_weights(name)
    assert weights.url.startswith(OPENMMLAB) and weights.url.endswith('/' + end)
    assert (weights.digest, weights.licence, weights.data) == (digest, 'Apache-2.0', 'COCO')


def test_names_of_torchvision():
    weights = find_weights('torchvision::shufflenet_v2_x1_0')
    assert weights.url == 'https://download.pytorch.org/models/shufflenetv2_x1-5666bf0f80.pth'
    assert (weights.digest, weights.licence) == ('5666bf0f80', 'BSD-3-Clause')


@pytest.mark.parametrize(
    ('name', 'message'),
    [
        (
            'mmdet::rtmdet_tinny',
            'there are no weights mmdet::rtmdet_tinny: did you mean .*rtmdet_tiny_8xb32-300e_coco',
        ),
        ('mmdet::retinanet_r50', 'may be .*: write the whole name'),
        ('torchvision::shuflenet_v2_x1_0', 'did you mean shufflenet'),
        ('mmcls::resnet50', 'one of the packages mmdet, torchvision, timm'),
        ('mmdet::', 'one of the packages mmdet, torchvision, timm'),
    ],
)
def test_unknown_and_ambiguous_names(name, message):
    with pytest.raises(ValueError, match=message):
        find_weights(name)


def test_the_configs_name_weights_that_are_listed():
    for path in sorted((REPO / 'configs/yolov5_rtmdet').glob('*.py')):
        cfg = load_config(path)
        check_start(cfg)  # as a training does, without the network
        assert find_weights(cfg.load_from).licence == 'Apache-2.0'


@pytest.mark.parametrize(
    ('name', 'theirs', 'matched', 'wanted'),
    [
        ('yolov5_rtmdet-tiny_640_coco', 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 328, 334),  # all but 3 weights, 3 biases
        ('yolov5_rtmdet-s_640_coco', 'rtmdet/rtmdet_s_8xb32-300e_coco', 358, 364),
        ('rtmdet_tiny_320_bccd', 'rtmdet/rtmdet_tiny_8xb32-300e_coco', 394, 400),
        ('yolox_tiny_320_bccd', 'yolox/yolox_tiny_8xb8-300e_coco', 382, 388),
    ],
)
def test_the_networks_have_the_layers_of_mmdets(name, theirs, matched, wanted):
    init_default_scope('mmdet')
    ours = MODELS.build(load_config(REPO / f'configs/yolov5_rtmdet/{name}.py').model)
    report = LoadReport.of(ours.state_dict(), MODELS.build(get_config(f'mmdet::{theirs}.py').model).state_dict())
    assert (
        len(report.matched) == matched and len(report.matched) + len(report.missing) + len(report.reshaped) == wanted
    )
    assert all(key.startswith('bbox_head.') for key in (*report.missing, *report.reshaped, *report.unexpected))


@pytest.fixture
def published(tmp_path, monkeypatch):
    """(checkpoint, URL): a metafile that lists seeded weights of RTMDet-tiny, which are in the cache of downloads."""
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(
        load_config(REPO / 'configs/yolov5_rtmdet/rtmdet_tiny_320_bccd.py', {'class_names': 'a'}).model
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.1)
    cache = tmp_path / 'hub/checkpoints'
    cache.mkdir(parents=True)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'seeded.pth')
    digest = hashlib.sha256((tmp_path / 'seeded.pth').read_bytes()).hexdigest()
    path = cache / f'rtmdet_tiny-{digest[:8]}.pth'
    (tmp_path / 'seeded.pth').rename(path)
    url = f'https://unreachable.invalid/{path.name}'
    family = tmp_path / 'mmdet/.mim/configs/rtmdet'
    family.mkdir(parents=True)
    (family / 'metafile.yml').write_text(
        'Models:\n  - Name: rtmdet_tiny_8xb32-300e_coco\n    Config: configs/rtmdet/rtmdet_tiny.py\n'
        f'    Results: [{{Task: Object Detection, Dataset: COCO}}]\n    Weights: {url}\n'
    )
    monkeypatch.setattr(model_zoo, '_package_folder', lambda package: tmp_path / package)
    monkeypatch.setenv('TORCH_HOME', str(tmp_path))
    monkeypatch.setattr(torch.hub, '_hub_dir', None)
    find_weights.cache_clear()
    yield path, url
    find_weights.cache_clear()


def test_a_training_starts_from_them_and_keeps_their_origin(published, tmp_path, monkeypatch):
    path, url = published
    data = make_tiny_coco(tmp_path / 'data', train=4, val=2, background=())
    options = {**tiny_options(data), 'max_epochs': 1, 'work_dir': str(tmp_path / 'run'), 'log_level': 'WARNING'}
    for loader in ('train_dataloader', 'val_dataloader'):
        options |= {f'{loader}.num_workers': 0, f'{loader}.persistent_workers': False}
    cfg = load_config(TINY, options)
    runner = RUNNERS.build(cfg)
    given = read_checkpoint(path)['state_dict']
    report = LoadReport.of(runner.model.state_dict(), given)
    assert {name.split('.')[0] for name in report.matched} == {'backbone', 'neck'} and not report.reshaped
    assert {name.rpartition('.')[0] for name in report.missing} == {f'bbox_head.convs_pred.{n}' for n in range(3)}
    # 80 classes of RTMDet: nothing of its head is taken
    assert all(name.startswith('bbox_head.') for name in report.unexpected)
    runner.train()
    saved = read_checkpoint(tmp_path / 'run/epoch_1.pth')
    origin = saved['meta']['origins'][0]
    assert url in origin['source'] and origin['licence'] == 'Apache-2.0' and 'trained on COCO' in origin['note']
    cards = find_origins(cfg, saved, 'epoch_1.pth')
    assert [(one.source, one.licence) for one in cards] == [(origin['source'], 'Apache-2.0')]
    # two steps do not move the weights far from those of the file
    trained = saved['state_dict']
    name = 'backbone.stage4.0.conv.weight'
    assert 0 < (trained[name] - given[name]).abs().max() < 0.05


def test_a_damaged_file_and_no_network(published, monkeypatch):
    path, url = published
    install_reader()
    read = CheckpointLoader.load_checkpoint('mmdet::rtmdet_tiny', 'cpu')
    assert torch.equal(read['state_dict']['neck.out_convs.0.conv.weight'],
                       read_checkpoint(path)['state_dict']['neck.out_convs.0.conv.weight'])  # fmt: skip
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=f'{path.name} is not the file of {re.escape(url)}: .*delete it'):
        model_zoo.fetch('mmdet::rtmdet_tiny')
    path.unlink()

    def offline(*args, **kwargs):
        raise OSError('no network')

    monkeypatch.setattr(torch.hub, 'download_url_to_file', offline)
    with pytest.raises(
        ValueError, match=f'{re.escape(url)} cannot be downloaded .*no network.*put the file at {path}'
    ):
        model_zoo.fetch('mmdet::rtmdet_tiny')


def test_a_backbone_by_name():
    init = {'type': 'Pretrained', 'checkpoint': 'torchvision::shufflenet_v2_x1_0'}
    origins = origins_in({'load_from': None, 'model': {'backbone': {'type': 'ShuffleNetV2', 'init_cfg': init}}})
    assert [one['licence'] for one in origins] == ['BSD-3-Clause']
    assert origins_in({'load_from': 'best.pth', 'model': {'type': 'mmyolo_ext.YOLODetector'}}) == []


def test_timm_states_licences():
    pytest.importorskip('timm')
    weights = find_weights('timm::resnet18.a1_in1k')
    assert weights.licence and 'resnet18' in weights.url and Path(weights.url).suffix
