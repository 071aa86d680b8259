"""Every config under configs/ builds, takes an optimizer step on real samples, and predicts."""

from pathlib import Path

import pytest
import torch
from mmengine.dataset import pseudo_collate
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, init_default_scope
from tiny_coco import REPO, make_tiny_coco, tiny_options

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.shortcuts import leaf_datasets

# configs/mixed, of mmdet's shapes, are held by test_mixed_configs.py alone
CONFIGS = sorted(path for path in (REPO / 'configs').rglob('*.py') if not {'_base_', 'mixed'} & set(path.parts[:-1]))
SMALL = ('yolov5_n_640_coco', 'yolov5_n_320_bccd', 'yolov5_n_digits', 'yolov5_s-v5_640_coco', 'yolov5_n6_1280_coco')
# Millions of parameters at 80 classes, as published with the releases (v5.0 for *_v5).
PUBLISHED = {
    **{'yolov5_n_640_coco': 1.9, 'yolov5_s_640_coco': 7.2, 'yolov5_m_640_coco': 21.2, 'yolov5_l_640_coco': 46.5, 'yolov5_x_640_coco': 86.7},
    **{'yolov5_n6_1280_coco': 3.2, 'yolov5_s6_1280_coco': 12.6, 'yolov5_m6_1280_coco': 35.7, 'yolov5_l6_1280_coco': 76.8, 'yolov5_x6_1280_coco': 140.7},
    **{'yolov5_s-v5_640_coco': 7.3, 'yolov5_m-v5_640_coco': 21.4, 'yolov5_l-v5_640_coco': 47.0, 'yolov5_x-v5_640_coco': 87.7},
}


def by_size(paths: list[Path]) -> list:
    return [pytest.param(p, id=p.stem, marks=() if p.stem in SMALL else pytest.mark.slow) for p in paths]


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    return make_tiny_coco(tmp_path_factory.mktemp('coco') / 'data')


def test_the_configs_that_were_promised_are_there():
    names = {path.relative_to(REPO / 'configs').as_posix() for path in CONFIGS}
    promised = {f'yolov5/{name}.py' for name in (*PUBLISHED, 'yolov5_n_320_bccd')} | {'quickstart/yolov5_n_digits.py'}
    assert promised <= names


def first_batch(loader: dict, count: int = 2) -> dict:
    dataset = DATASETS.build(loader.dataset)
    return pseudo_collate([dataset[index] for index in range(count)])


# those of configs/light take theirs in test_light_configs.py, where nothing is downloaded
@pytest.mark.parametrize('path', by_size([path for path in CONFIGS if path.parent.name != 'light']))
def test_a_config_trains_a_step_and_predicts(path, tiny):
    torch.manual_seed(0)
    side = 128 if '1280' in path.stem else 64
    cfg = load_config(path, tiny_options(tiny, side))
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


@pytest.mark.parametrize('path', by_size([path for path in CONFIGS if path.stem in PUBLISHED]))
def test_network_has_the_published_size(path):
    with torch.device('meta'):
        model = MODELS.build(load_config(path).model)
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == pytest.approx(PUBLISHED[path.stem], abs=0.11)


def transforms(dataset: dict) -> list[dict]:
    inner = transforms(dataset.dataset) if 'dataset' in dataset else []
    return [*inner, *dataset.get('pipeline', [])]


def pictures(dataset: dict) -> list[dict]:
    """The data set that the outer ones draw their pictures from: the cache, or the innermost."""
    inner = pictures(dataset.dataset) if 'dataset' in dataset else []
    return [dataset] if dataset.type.endswith('CachedDataset') or not inner else inner


@pytest.mark.parametrize('path', [pytest.param(path, id=path.stem) for path in CONFIGS])
def test_sizes_classes_and_files_agree_within_a_config(path):
    cfg = load_config(path)
    size = cfg.model.bbox_head.input_size
    strides = cfg.model.bbox_head.prior_generator.strides
    steps = {step.type.split('.')[-1]: step for step in transforms(cfg.train_dataloader.dataset)}
    mixes = path.stem != 'yolov5_n_digits'
    assert ('MosaicAffine' in steps) == mixes
    affine = steps['MosaicAffine' if mixes else 'RandomAffine']
    (fitted,) = [node.size if mixes else steps['Letterbox'].size_hw for node in pictures(cfg.train_dataloader.dataset)]
    assert affine['size'] == fitted == (size, size)
    rect = cfg.val_dataloader.dataset
    assert (rect.size, rect.batch_size) == (size, cfg.val_dataloader.batch_size)
    assert rect.stride == cfg.model.data_preprocessor.pad_size_divisor == max(strides) and size % max(strides) == 0
    val = next(leaf_datasets(rect))
    assert cfg.val_evaluator.ann_file == val.data_root + val.ann_file
    classes = val.get('metainfo', {}).get('classes', range(80))
    assert len(classes) == cfg.model.bbox_head.num_classes
    strong = path.parent.name == 'yolov5' and path.stem[0] in 'mlx'
    scale = 0.1 if path.stem == 'yolov5_n_digits' else 0.9 if strong else 0.5
    assert affine['scale'] == scale and ('MixUp' in steps) == strong


def test_views_are_padded_as_validation_pads_and_flipped_before():
    for path in CONFIGS:
        cfg = load_config(path)
        (letterbox,) = [step for step in next(leaf_datasets(cfg.val_dataloader.dataset)).pipeline if 'size_hw' in step]
        *flips, letterboxes, _ = cfg.tta_pipeline[-1].transforms
        trains_with_flips = 'Flip' in str(cfg.train_dataloader.dataset)
        assert [step.type for group in flips for step in group] == ['RandomFlip'] * (2 * trains_with_flips)
        assert letterbox.size_hw in [view.size_hw for view in letterboxes] and len(letterboxes) == 3
        for view in letterboxes:
            assert view.get('centred') == letterbox.get('centred')
            assert view.stride == cfg.val_dataloader.dataset.stride
