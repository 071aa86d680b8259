"""The shortcuts in configs that inherit mmdet's: sizes, epochs and classes reach what mmdet writes in its own way."""

import pytest
from mmengine.config import Config
from tiny_coco import REPO

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config_nodes import kind, walk

MIXED = REPO / 'configs/mixed'
RTMDET = MIXED / 'rtmdet_tiny_shufflenetv2-1.0_8xb32-300e_coco.py'
YOLOX = MIXED / 'yolox_tiny_shufflenetv2-1.0_8xb8-300e_coco.py'
RETINANET = MIXED / 'retinanet_shufflenetv2-1.0_fpn_1x_coco.py'


def values(cfg: Config, name: str, argument: str, views: bool = False) -> set:
    """What a kind of part has for an argument, in the views of a test or everywhere else."""
    nodes = cfg.tta_pipeline if views else {key: node for key, node in cfg.items() if key != 'tta_pipeline'}
    return {str(node[argument]) for node in walk(nodes) if kind(node) == name and argument in node}


def test_a_rectangle_reaches_every_transform_of_rtmdet():
    cfg = load_config(RTMDET, {'input_size': (320, 480)})  # (height, width); mmdet writes (width, height)
    for name, argument in (
        ('CachedMosaic', 'img_scale'),
        ('CachedMixUp', 'img_scale'),
        ('RandomCrop', 'crop_size'),
        ('Pad', 'size'),
        ('Resize', 'scale'),
    ):
        assert values(cfg, name, argument) == {'(480, 320)'}, name
    # 1280 in the first stage, 640 in the second, on images of 640
    assert values(cfg, 'RandomResize', 'scale') == {'(960, 640)', '(480, 320)'}


def test_yolox_keeps_the_range_of_its_batches():
    cfg = load_config(YOLOX, {'input_size': 320})
    assert values(cfg, 'Mosaic', 'img_scale') == values(cfg, 'Resize', 'scale') == {'(320, 320)'}
    assert values(cfg, 'RandomAffine', 'border') == {'(-160, -160)'}
    assert values(cfg, 'BatchSyncRandomResize', 'random_size_range') == {'(160, 320)'}  # of 320 to 640 for 640


def test_our_transforms_in_a_detector_of_mmdet():
    cfg = load_config(MIXED / 'retinanet_r50_fpn_yolov5-augment_2x_coco.py', {'input_size': 320})
    assert values(cfg, 'Mosaic', 'size') == values(cfg, 'Letterbox', 'size_hw') == {'(320, 320)'}
    assert not [node for node in walk(cfg._cfg_dict) if kind(node) == 'MixUp' and 'img_scale' in node]


def test_views_follow_the_old_size():
    cfg = load_config(RETINANET, {'input_size': (320, 640)})
    # (1333, 800), (666, 400) and (2000, 1200) times 640 / 1333 and 320 / 800, in whole strides of 32
    assert values(cfg, 'Resize', 'scale', views=True) == {'(640, 320)', '(320, 160)', '(960, 480)'}
    assert values(cfg, 'Resize', 'scale') == {'(640, 320)'}
    # 960 px of 640, for views of 640, 320 and 960
    assert values(load_config(RTMDET, {'input_size': 320}), 'Pad', 'size', views=True) == {'(480, 480)'}


@pytest.mark.parametrize(
    'name', ['faster-rcnn_shufflenetv2-1.0_fpn_1x_coco', 'faster-rcnn_mobilenetv3-large_fpn_1x_coco']
)
def test_class_names_reach_the_head_of_regions_alone(name):
    cfg = load_config(MIXED / f'{name}.py', {'class_names': ('a', 'b'), 'input_size': 320})
    found = [key for key, node in named(cfg.model) if node.get('num_classes') == 2]
    assert found == ['roi_head.bbox_head']


def named(node: dict, name: str = ''):
    yield name, node
    for key, value in node.items():
        if isinstance(value, dict):
            yield from named(value, f'{name}.{key}'.lstrip('.'))


def test_a_cascade_has_several_heads(tmp_path):
    (tmp_path / 'mine.py').write_text("_base_ = 'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py'\n")
    cfg = load_config(tmp_path / 'mine.py', {'class_names': 'cell'})
    heads = [*cfg.model.roi_head.bbox_head, cfg.model.roi_head.mask_head]
    assert [head.num_classes for head in heads] == [1] * 4 and 'num_classes' not in cfg.model.rpn_head


def test_epochs_of_schedules_and_hooks_keep_their_share():
    cfg = load_config(RTMDET, {'max_epochs': 100})
    _, cosine = cfg.param_scheduler  # the first counts iterations
    assert (cosine.begin, cosine.end, cosine.T_max) == (50, 100, 50)  # of 300: 150, 300, 150
    assert cfg.custom_hooks[1].switch_epoch == 93 and cfg.train_cfg.dynamic_intervals == [(93, 1)]  # 280 / 3
    cfg = load_config(YOLOX, {'max_epochs': 100})
    warmup, cosine, constant = cfg.param_scheduler
    assert (warmup.end, cosine.begin) == (5, 5)  # warm-up keeps its length
    assert (cosine.end, constant.begin, constant.end) == (95, 95, 100) and cosine.T_max == 92  # 285 of 280, of 90
    assert cfg.custom_hooks[0].num_last_epochs == 5
    assert load_config(RETINANET, {'max_epochs': 36}).param_scheduler[1].milestones == [24, 33]  # of 12: 8, 11


@pytest.mark.parametrize('epochs', [1, 2, 7, 300, 900])
@pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in (RTMDET, YOLOX, RETINANET)])
def test_schedules_stay_whole_at_any_length(path, epochs):
    cfg = load_config(path, {'max_epochs': epochs})
    by_epoch = [s for s in cfg.param_scheduler if s.get('by_epoch', True)]
    assert by_epoch and max(s.end for s in by_epoch) == epochs
    for one, schedule in enumerate(by_epoch):
        assert schedule.get('begin', 0) < schedule.end
        assert one == 0 or schedule.begin == by_epoch[one - 1].end or path != YOLOX  # no gap between the three
