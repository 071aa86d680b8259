"""Test the configs: consistent, of the published size, trainable, and changed by a few lines of a child."""

import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from tiny_coco import REPO, make_tiny_coco, tiny_options

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.config import unread_variables
from mmyolo_ext.apis.config_nodes import READ_KEYS, leaf_datasets

# configs/mixed, with the structure of mmdet's, has its own test
CONFIGS = sorted(path for path in (REPO / 'configs').rglob('*.py') if not {'_base_', 'mixed'} & set(path.parts[:-1]))
ALL = pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in CONFIGS])
# one of each structure, in narrow networks; light and fine-tuning configs take steps in tests of their own
STEPS = {
    'yolov5/yolov5_n_640_coco': 0.125,
    'yolov5/yolov5_l-v5_640_coco': 0.125,
    'yolov5/yolov5_l6_1280_coco': 0.125,
    'yolov5/yolov5_n_320_bccd': 0.125,
    'quickstart/yolov5_n_digits': 0.125,
    'yolov3/yolov3_darknet53_640_coco': None,
    'yolov3/yolov3_tiny_320_bccd': None,
}
# Millions of parameters at 80 classes, as published with the releases (v5.0 for *-v5).
PUBLISHED = {
    **{'n_640': 1.9, 's_640': 7.2, 'm_640': 21.2, 'l_640': 46.5, 'x_640': 86.7},
    **{'n6_1280': 3.2, 's6_1280': 12.6, 'm6_1280': 35.7, 'l6_1280': 76.8, 'x6_1280': 140.7},
    **{'s-v5_640': 7.3, 'm-v5_640': 21.4, 'l-v5_640': 47.0, 'x-v5_640': 87.7},
}
VARIABLES = {'num_classes', 'img_scale', 'metainfo', 'train_pipeline', 'val_pipeline', 'inference_pipeline'}
OTHER_KEYS = {'default_scope', 'runner_type', 'memory_format', 'log_level', 'load_from', 'resume'}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return make_tiny_coco(tmp_path_factory.mktemp('coco') / 'data')


def first_batch(loader: dict, count: int = 2) -> dict:
    dataset = DATASETS.build(loader.dataset)
    return pseudo_collate([dataset[index] for index in range(count)])


@pytest.mark.parametrize('name', STEPS)
def test_a_config_trains_a_step_and_predicts(name, tiny):
    torch.manual_seed(0)
    options = tiny_options(tiny, 128 if '1280' in name else 64)
    if STEPS[name]:
        options |= {f'model.{part}.widen_factor': STEPS[name] for part in ('backbone', 'neck')}
        options |= {f'model.{part}.deepen_factor': 0.33 for part in ('backbone', 'neck')}
    cfg = load_config(REPO / 'configs' / f'{name}.py', options)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    model.init_weights()
    wrapper = build_optim_wrapper(model, cfg.optim_wrapper)
    before = model.bbox_head.convs_pred[0].weight.detach().clone()

    losses = model.train_step(first_batch(cfg.train_dataloader), wrapper)
    wrapper.step()
    assert all(torch.isfinite(torch.as_tensor(value)) for value in losses.values()), losses
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    assert not torch.equal(before, model.bbox_head.convs_pred[0].weight)

    model.eval()
    with torch.no_grad():
        results = model.test_step(first_batch(cfg.val_dataloader))
    for result in results:
        found, (height, width) = result.pred_instances, result.ori_shape
        assert len(found) <= 300 and found.bboxes.isfinite().all()
        assert ((found.labels >= 0) & (found.labels < 2)).all()
        if len(found):
            assert found.bboxes.min() >= 0 and (found.bboxes.amax(0)[2:] <= torch.tensor([width, height])).all()


@pytest.mark.parametrize('name', PUBLISHED)
def test_network_has_the_published_size(name):
    with torch.device('meta'):
        model = MODELS.build(load_config(REPO / 'configs/yolov5' / f'yolov5_{name}_coco.py').model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == pytest.approx(PUBLISHED[name], abs=0.11)


def transforms(dataset: dict) -> list[dict]:
    inner = transforms(dataset.dataset) if 'dataset' in dataset else []
    return [*inner, *dataset.get('pipeline', [])]


@ALL
def test_sizes_classes_and_files_agree_within_a_config(path):
    cfg = load_config(path)
    head = cfg.model.bbox_head
    size = head.get('input_size', cfg.img_scale[0])  # heads of mmdet do not scale their losses by it
    strides = head.get('strides') or (head.get('prior_generator') or head.anchor_generator).strides
    steps = {step.type.split('.')[-1]: step for step in transforms(cfg.train_dataloader.dataset)}
    mixes = path.stem != 'yolov5_n_digits'
    assert ('MosaicAffine' in steps) == mixes
    affine = steps['MosaicAffine' if mixes else 'RandomAffine']
    cached = cfg.train_dataloader.dataset.dataset
    fitted = cached.size if mixes else steps['Letterbox'].size_hw
    assert affine['size'] == fitted == cfg.img_scale == (size, size)
    assert cfg.train_dataloader.dataset.pipeline == cfg.train_pipeline
    assert next(leaf_datasets(cfg.val_dataloader.dataset)).pipeline == cfg.val_pipeline
    rect = cfg.val_dataloader.dataset
    assert (rect.size, rect.batch_size) == ((size, size), cfg.val_dataloader.batch_size)
    assert rect.stride == cfg.model.data_preprocessor.pad_size_divisor == max(strides) and size % max(strides) == 0
    val = next(leaf_datasets(rect))
    assert cfg.val_evaluator.ann_file == val.data_root + val.ann_file
    classes = val.get('metainfo', {}).get('classes', range(80))
    assert len(classes) == cfg.model.bbox_head.num_classes == cfg.num_classes
    strong = path.stem.split('_')[1][0] in 'mlx' and path.parent.name == 'yolov5'
    scale = 0.1 if path.stem == 'yolov5_n_digits' else 0.9 if strong else 0.5
    assert affine['scale'] == scale and ('MixUp' in steps) == strong


@ALL
def test_no_helper_variable_is_in_a_dump(path):
    assert set(load_config(path).keys()) <= {*READ_KEYS, *VARIABLES, *OTHER_KEYS}


@ALL
def test_views_are_padded_as_validation_pads_and_flipped_before(path):
    cfg = load_config(path)
    (letterbox,) = [step for step in cfg.val_pipeline if 'size_hw' in step]
    *flips, letterboxes, _ = cfg.tta_pipeline[-1].transforms
    trains_with_flips = 'Flip' in str(cfg.train_dataloader.dataset)
    assert [step.type for group in flips for step in group] == ['RandomFlip'] * (2 * trains_with_flips)
    assert letterbox.size_hw in [view.size_hw for view in letterboxes] and len(letterboxes) == 3
    for view in letterboxes:
        assert view.get('centred') == letterbox.get('centred')
        assert view.stride == cfg.val_dataloader.dataset.stride


def child(tmp_path, text: str) -> Config:
    (tmp_path / 'mine.py').write_text(f"_base_ = '{REPO}/configs/yolov5/yolov5_n_640_coco.py'\n{text}")
    return load_config(tmp_path / 'mine.py')


def test_one_line_changes_a_number_of_the_augmentation(tmp_path):
    pipeline = child(
        tmp_path, '_base_.train_dataloader.dataset.pipeline[1].hue = 0.03\n'
    ).train_dataloader.dataset.pipeline
    assert [step.get('hue') for step in pipeline] == [None, 0.03, None, None]


def test_a_transform_is_added_to_the_list(tmp_path):
    lines = (
        'train_pipeline = _base_.train_pipeline\n'
        "train_pipeline.insert(1, dict(type='mmyolo_ext.MixUp', prob=0.1))\n"
        'train_dataloader = dict(dataset=dict(pipeline=train_pipeline))\n'
    )
    types = [step.type.split('.')[1] for step in child(tmp_path, lines).train_dataloader.dataset.pipeline]
    assert types == ['MosaicAffine', 'MixUp', 'HSVJitter', 'HorizontalFlip', 'PackInputs']


def test_variables_follow_the_shortcuts(tmp_path):
    cfg = child(tmp_path, "class_names = ('a', 'b')\ninput_size = (320, 416)\n")
    assert cfg.num_classes == cfg.model.bbox_head.num_classes == 2
    # mmdet's img_scale is (width, height)
    assert cfg.img_scale == (416, 320) and cfg.train_pipeline[0].size == (320, 416)


@pytest.mark.parametrize('line', ['img_scale = (320, 320)', 'num_classes = 3', 'train_pipeline = []'])
def test_a_variable_that_nothing_reads_is_named(tmp_path, line):
    child(tmp_path, line)
    (warning,) = unread_variables(tmp_path / 'mine.py')
    assert line.split()[0] in warning


def test_a_variable_that_the_file_reads_is_not_named(tmp_path):
    child(tmp_path, 'num_classes = 3\nmodel = dict(bbox_head=dict(num_classes=num_classes))')
    assert list(unread_variables(tmp_path / 'mine.py')) == []
