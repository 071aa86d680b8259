"""configs/mixed: our parts inside mmdet's detectors, by our tools and by mmdet's own."""

import json
import re
from pathlib import Path

import mmengine
import pytest
import torch
from bccd_step import BATCH, REPO, bccd_options, is_download, load_for_bccd, step_on_bccd
from forked import run_python
from mmengine.config import Config
from torch import nn

MIXED = REPO / 'configs/mixed'
CONFIGS = sorted(MIXED.glob('*.py'))
DETECTORS = ('retinanet', 'fcos', 'atss', 'gfl', 'faster-rcnn', 'rtmdet', 'yolox')
BACKBONES = ('shufflenetv2-1.0', 'mobilenetv3-large')
# torchvision's: https://docs.pytorch.org/vision/stable/models.html, times 255
IMAGENET_RGB = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'bgr_to_rgb': True}


def named(path: Path) -> object:
    return pytest.param(path, id=path.stem)


@pytest.mark.parametrize('path', map(named, CONFIGS))
def test_a_mixed_config_steps_predicts_saves_and_loads(path, bccd_coco):
    model = step_on_bccd(path, bccd_coco)
    parts = {type(part).__module__.split('.')[0] for part in model.modules()}
    ours = 'mmyolo_ext' in parts
    assert 'mmdet' in parts and ours != path.stem.endswith('yolov5-augment_2x_coco')
    assert_strides(model)


def assert_strides(model: nn.Module) -> None:
    """The maps have the strides of the priors, which mmdet's detectors do not compare."""
    side = 256
    with torch.no_grad():
        strides = [side // level.shape[-1] for level in model.extract_feat(torch.zeros(1, 3, side, side))]
    head = model.rpn_head if hasattr(model, 'rpn_head') else model.bbox_head
    assert [width for width, _ in head.prior_generator.strides] == strides
    if hasattr(model, 'roi_head'):
        assert model.roi_head.bbox_roi_extractor.featmap_strides == strides[:4]


def test_every_pair_that_was_promised_is_there():
    names = {path.stem for path in CONFIGS}
    for detector in DETECTORS:
        for backbone in BACKBONES:
            assert any(name.startswith(detector) and backbone in name for name in names), (detector, backbone)
    others = {name for name in names if not any(backbone in name for backbone in BACKBONES)}
    assert others == {
        'yolov5-head_r50_fpn_1x_coco',
        'yolov5-head_swin-t_fpn_1x_coco',
        'yolox_s_yolov5-pafpn_8xb8-300e_coco',
        'rtmdet_tiny_yolov5-pafpn_8xb32-300e_coco',
        'retinanet_r50_fpn_yolov5-augment_2x_coco',
    }
    assert len(names) == len(DETECTORS) * len(BACKBONES) + len(others)


def flat(node: object, name: str = '') -> dict[str, object]:
    """Dotted names of the leaves of nested dicts; a list is a leaf."""
    if not isinstance(node, dict):
        return {name: node}
    return {k: v for key, value in node.items() for k, v in flat(value, f'{name}.{key}'.lstrip('.')).items()}


def changed(path: Path) -> set[str]:
    """What a config sets otherwise than the one it inherits, which must be mmdet's."""
    base = re.search(r"^_base_ = 'mmdet::\S+'", path.read_text(), re.MULTILINE)[0]
    before, after = (flat(cfg._cfg_dict.to_dict()) for cfg in (Config.fromstring(base, '.py'), Config.fromfile(path)))
    return {name for name in {*before, *after} if before.get(name) != after.get(name)}


@pytest.mark.parametrize('path', [named(path) for path in CONFIGS if any(b in path.stem for b in BACKBONES)])
def test_a_change_of_backbone_changes_what_it_must(path):
    others = {name for name in changed(path) if not name.startswith('model.backbone.')}
    needed = {'custom_imports.imports', 'custom_imports.allow_failed_imports', 'model.neck.in_channels'}
    assert needed <= others
    preprocessing = {f'model.data_preprocessor.{key}' for key in IMAGENET_RGB}
    assert others - needed <= {'model.neck.start_level'} | preprocessing


@pytest.mark.parametrize('part', ['yolox_s_yolov5-pafpn_8xb8-300e', 'rtmdet_tiny_yolov5-pafpn_8xb32-300e'])
def test_a_change_of_neck_changes_the_neck(part):
    others = {name for name in changed(MIXED / f'{part}_coco.py') if not name.startswith('model.neck')}
    assert others == {'custom_imports.imports', 'custom_imports.allow_failed_imports'}


@pytest.mark.parametrize('path', map(named, CONFIGS))
def test_images_are_normalised_as_the_pretrained_weights_expect(path):
    model = Config.fromfile(path).model
    checkpoint = (model.backbone.get('init_cfg') or {}).get('checkpoint', '')
    pretrained = checkpoint.removeprefix('torchvision://')
    if pretrained != checkpoint:
        assert pretrained in json.loads((Path(mmengine.__file__).parent / 'hub/torchvision_0.12.json').read_text())
        assert {key: model.data_preprocessor[key] for key in IMAGENET_RGB} == IMAGENET_RGB
    else:
        # a neck was changed, or the Swin of its base with its own weights
        assert 'pafpn' in path.stem or is_download(model.backbone.init_cfg)


IN_THIS_PROCESS = {
    f'{loader}_dataloader.{key}': value
    for loader in ('train', 'val', 'test')
    for key, value in (('num_workers', 0), ('persistent_workers', False))
}


def run(*command: str | Path) -> str:
    done = run_python(*command)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout + done.stderr


def figures(folder: Path) -> dict:
    """The last figures that a run wrote."""
    (log,) = folder.rglob('*_*.json')  # named by the time
    lines = log.read_text().splitlines()
    return json.loads(lines[-1])


@pytest.mark.slow
def test_mmdets_own_tools_train_and_test_our_parts(bccd_coco, tmp_path):
    """Our transforms, data set wrapper and hooks in a detector of mmdet, by mmdet's runner."""
    cfg = load_for_bccd(
        MIXED / 'retinanet_r50_fpn_yolov5-augment_2x_coco.py', bccd_coco, options={'max_epochs': 1, **IN_THIS_PROCESS}
    )
    cfg.default_hooks.close_mosaic.num_last_epochs = 1
    cfg.model.test_cfg.score_thr = 0.0  # without a box there are no figures
    cfg.model.backbone.depth = 18
    cfg.model.neck.in_channels = [64, 128, 256, 512]
    cfg.dump(tmp_path / 'mine.py')
    tool, work = ('-m', 'mmyolo_ext.cli.run'), tmp_path / 'train'
    output = run(*tool, 'mmdet::tools/train.py', tmp_path / 'mine.py', '--work-dir', work)
    assert 'images are not mixed from here on' in output
    trained = figures(work)
    run(*tool, 'mmdet::tools/test.py', tmp_path / 'mine.py', work / 'epoch_1.pth', '--work-dir', tmp_path / 'test')
    tested = figures(tmp_path / 'test')
    metrics = {key for key in trained if key.startswith('coco/bbox')}
    assert metrics and {key: tested[key] for key in metrics} == {key: trained[key] for key in metrics}


@pytest.mark.slow
def test_our_tool_trains_a_detector_of_mmdet(bccd_coco, tmp_path):
    """With the shortcuts, and with the recipe that our head asks for."""
    given = {**bccd_options(bccd_coco), 'input_size': 160, 'max_epochs': 1}
    given |= {'model.backbone.init_cfg': None, **IN_THIS_PROCESS}
    options = [f'{key}="{value}"' if isinstance(value, tuple) else f'{key}={value}' for key, value in given.items()]
    config = MIXED / 'yolov5-head_r50_fpn_1x_coco.py'
    output = run(REPO / 'tools/train.py', config, '--work-dir', tmp_path, '--cfg-options', *options)
    assert f'An optimizer step sums the gradients of 64 images: batch {BATCH} x 1 rank(s) x 32 iteration(s)' in output
    assert 0 <= figures(tmp_path)['coco/bbox_mAP'] <= 1 and (tmp_path / 'epoch_1.pth').is_file()
