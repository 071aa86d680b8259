"""Figures of tools/flops.py against counts by hand, against published ones and against mmengine's own total."""

import json
import sys

import pytest
import torch
import torch.nn.functional as F
from mmengine.analysis import get_model_complexity_info
from tiny_coco import REPO
from torch import nn

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.model_names import config_path
from mmyolo_ext.cli import flops

TOOL = REPO / 'tools' / 'flops.py'


@pytest.fixture
def run(monkeypatch, capsys):
    """Start the tool in this process; what it printed."""

    def start(*arguments: object) -> str:
        monkeypatch.setattr(sys, 'argv', ['flops.py', *map(str, arguments)])
        flops.main.__wrapped__()  # raises what the tool prints as its last line
        printed = capsys.readouterr()
        assert printed.err == ''
        return printed.out

    return start


class Toy(nn.Module):
    """Of a detector what the tool reads: three children, and a forward that calls the head without its hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
        self.neck = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, groups=8), nn.Upsample(scale_factor=2))
        self.bbox_head = nn.Conv2d(8, 5, 1)
        self.rest = nn.Linear(4, 6)

    def forward(self, inputs, data_samples=None, mode='tensor'):
        assert mode == 'tensor' and data_samples[0].img_shape == tuple(inputs.shape[-2:])
        maps = self.bbox_head.forward(F.max_pool2d(self.neck(self.backbone(inputs)), 2))
        return self.rest(maps.flatten(2)[..., :4])


def test_a_small_network_by_hand():
    counted = flops.count(Toy().eval(), (10, 14))
    # backbone: 5 x 7 cells of 8 channels, each the sum of 3 * 3 * 3 products:  5 * 7 * 8 * 27 = 7560
    # neck, one input channel for each of its 8:                               5 * 7 * 8 * 9 = 2520
    # enlarged to 10 x 14 and pooled back to 5 x 7; head 1x1:                  5 * 7 * 5 * 8 = 1400
    # linear on (5, 4), 4 -> 6:                                                     5 * 4 * 6 = 120, with the head
    assert counted['macs'] == {'backbone': 7560, 'neck': 2520, 'head': 1520, 'total': 11600}
    assert counted['flops'] == {'backbone': 15120, 'neck': 5040, 'head': 3040, 'total': 23200}
    # batch norm: scale and shift of 5 * 7 * 8 elements; nearest enlargement: one read for each of 10 * 14 * 8
    assert counted['elementwise'] == {'batch_norm': 560, 'upsample_nearest2d': 1120}
    assert counted['not_counted'] == {'max_pool2d': 1, 'silu': 1}
    # 3 * 8 * 9 + 2 * 8;  8 * 9 + 8;  8 * 5 + 5 + 4 * 6 + 6
    assert flops.parameters(Toy()) == {'backbone': 232, 'neck': 80, 'head': 75, 'total': 387}


def test_the_sum_is_that_of_mmengine():
    model = Toy().eval()
    counted = flops.count(model, (32, 32))
    wrapped = flops.WithMetas(model, (32, 32))
    theirs = get_model_complexity_info(wrapped, inputs=torch.zeros(1, 3, 32, 32), show_table=False, show_arch=False)
    assert theirs['flops'] == counted['macs']['total'] + sum(counted['elementwise'].values())
    assert theirs['params'] == flops.parameters(model)['total']


@pytest.mark.parametrize(('name', 'published'), [('yolov5_n_640_coco', 4.5), ('yolov5_s_640_coco', 16.5)])
def test_yolov5_costs_what_its_releases_say(name, published):
    cfg = load_config(REPO / 'configs/yolov5' / f'{name}.py')
    assert flops.size_of(cfg) == (640, 640)
    model = flops.build(cfg)
    large, small = (flops.count(model, (side, side)) for side in (640, 320))
    # the releases count batch norm too
    assert round((large['flops']['total'] + large['elementwise']['batch_norm']) / 1e9, 1) == published
    assert large['macs'] == {part: 4 * macs for part, macs in small['macs'].items()}  # all of it convolutions
    assert large['not_counted']['max_pool2d'] == 3 and large['elementwise']['upsample_nearest2d'] > 0


def test_mmdets_flops_are_macs():
    """8.1 GFLOPs of RTMDet-tiny in its README: a multiply-add once, batch norm counted too."""
    cfg = load_config(config_path('mmdet::rtmdet/rtmdet_tiny_8xb32-300e_coco.py'))
    model = flops.build(cfg)
    counted = flops.count(model, flops.size_of(cfg))
    assert (counted['macs']['total'] + counted['elementwise']['batch_norm']) / 1e9 == pytest.approx(8.1, abs=0.05)


def test_a_two_stage_detector_is_counted_through_both_stages():
    options = {
        'model.backbone.depth': 18,
        'model.backbone.init_cfg': None,
        'model.neck.in_channels': [64, 128, 256, 512],
    }
    cfg = load_config(config_path('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py'), options)
    assert flops.size_of(cfg) == (800, 1344)  # 800 x 1333, padded to multiples of 32
    cfg.model.test_cfg.rpn.max_per_img = 10
    torch.manual_seed(0)
    model = flops.build(cfg)
    head = flops.count(model, (64, 96))['macs']['head']
    # RPN on 16*24 + 8*12 + 4*6 + 2*3 + 1*2 = 512 cells: 3x3 256 -> 256, 1x1 -> 3 and 12
    rpn = 512 * (9 * 256 * 256 + 256 * 15)
    # each of 10 proposals: 256*7*7 -> 1024 -> 1024 -> 81 and 320
    assert head == rpn + 10 * (256 * 49 * 1024 + 1024 * 1024 + 1024 * (81 + 320))


def test_one_line_of_json(run):
    config = REPO / 'configs/yolov5/yolov5_n_320_bccd.py'
    line = run(config, '--json', '--size', 64, '--size', 64, 96, '--cfg-options', 'model.bbox_head.num_classes=1')
    assert line.count('\n') == 1
    found = json.loads(line)
    assert found['config'] == str(config)
    assert [counted['size_hw'] for counted in found['counts']] == [[64, 64], [64, 96]]
    assert found['params']['head'] == sum(3 * 6 * (channels + 1) for channels in (64, 128, 256))
    # 3 anchors x (1 class + 5) on 8x12, 4x6 and 2x3 cells
    assert found['counts'][1]['macs']['head'] == 18 * (96 * 64 + 24 * 128 + 6 * 256)


def test_the_table(run):
    lines = run(REPO / 'configs/yolov5/yolov5_n_320_bccd.py').splitlines()
    assert lines[0] == 'input 320 x 320 (height x width)'
    rows = {line.split()[0]: line.split()[1:] for line in lines[2:6]}
    assert list(rows) == ['backbone', 'neck', 'head', 'total'] and rows['backbone'][0] == '1,046,368'
    # head: 3 anchors x (3 classes + 5) on 1600, 400 and 100 cells of 64, 128 and 256 channels: 24 * 179200 = 4.3 M
    assert rows['head'][1:] == ['0.004', '0.009']
    # 4.468 GFLOPs at 640 less 0.366 of its head of 80 classes, a quarter of that at 320, and twice the 4.3 M
    assert rows['total'][1:] == ['0.517', '1.034']
    assert 'max_pool2d x 3' in lines[-1] and 'upsample_nearest2d' in lines[-2]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (('--size', 1, 2, 3), r'a side or height and width, in px, got \[1, 2, 3\]'),
        (('--size', 0), r'got \[0\]'),
    ],
)
def test_sizes_that_are_none(run, arguments, message):
    with pytest.raises(ValueError, match=message):
        run(REPO / 'configs/yolov5/yolov5_n_320_bccd.py', *arguments)


def test_other_wrong_input(run, tmp_path):
    with pytest.raises(ValueError, match='there is no config nowhere.py'):
        run('nowhere.py')
    with pytest.raises(ValueError, match="the package 'mmnothing' is not installed"):
        run('mmnothing::a.py')
    (tmp_path / 'mine.py').write_text("model = dict(type='mmdet.RetinaNet')\n")
    with pytest.raises(ValueError, match='names no size; give --size'):
        run(tmp_path / 'mine.py')
    with pytest.raises(ValueError, match='Toy cannot process an image of height 1, width 2'):
        flops.count(Toy().eval(), (1, 2))
