"""What all transforms owe their neighbours: types kept, inputs untouched, no boxes or no annotations, clear errors."""

import copy

import numpy as np
import pytest
import torch
from mmdet.structures.bbox import HorizontalBoxes

from mmyolo_ext.datasets.transforms import (
    BoxCopyPaste,
    HorizontalFlip,
    HSVJitter,
    Letterbox,
    MixUp,
    Mosaic,
    MosaicAffine,
    RandomAffine,
)

SIZE_HW = (96, 128)
ALL = [Letterbox(SIZE_HW), Mosaic(SIZE_HW), RandomAffine(SIZE_HW), MixUp(1.0), MosaicAffine(SIZE_HW),
       MosaicAffine(SIZE_HW, degrees=20), HorizontalFlip(1.0), BoxCopyPaste(1.0), HSVJitter()]  # fmt: skip


def run(painter, transform, samples):
    if isinstance(transform, MixUp):
        return transform(painter.mix([samples[0], samples[0]]))
    return transform(
        painter.mix(samples) if isinstance(transform, Mosaic | MosaicAffine) else copy.deepcopy(samples[0])
    )


@pytest.mark.parametrize('transform', ALL, ids=lambda t: type(t).__name__)
def test_images_without_boxes(painter, transform):
    out = run(painter, transform, [painter.sample(60, 50)] * 4)
    assert isinstance(out['gt_bboxes'], HorizontalBoxes)
    assert out['gt_bboxes'].tensor.shape == (0, 4) and out['gt_bboxes'].tensor.dtype == torch.float32
    assert out['gt_bboxes_labels'].dtype == np.int64 and out['gt_bboxes_labels'].shape == (0,)
    assert out['gt_ignore_flags'].dtype == bool and out['gt_ignore_flags'].shape == (0,)


@pytest.mark.parametrize('transform', ALL, ids=lambda t: type(t).__name__)
def test_images_alone(painter, transform):
    sample = {'img': painter.sample(60, 50)['img'], 'img_shape': (60, 50)}
    out = run(painter, transform, [sample] * 4)
    assert not [key for key in out if key.startswith('gt_')]
    assert out['img_shape'] == out['img'].shape[:2]


@pytest.mark.parametrize('transform', ALL, ids=lambda t: type(t).__name__)
def test_types_and_inputs_are_kept(painter, quartet, transform):
    samples = copy.deepcopy(quartet[0])
    out = run(painter, transform, samples)
    assert out['img'].dtype == np.uint8 and out['img'].flags.c_contiguous
    assert out['gt_bboxes'].tensor.dtype == torch.float32
    assert out['gt_bboxes_labels'].dtype == np.int64 and out['gt_ignore_flags'].dtype == bool
    given = painter.mix(samples if isinstance(transform, Mosaic | MosaicAffine) else [samples[0], samples[0]])
    before = copy.deepcopy(given)
    np.random.seed(1)
    transform(given)
    for now, then in zip([given, *given['mix_results']], [before, *before['mix_results']], strict=True):
        np.testing.assert_array_equal(now['img'], then['img'])
        assert torch.equal(now['gt_bboxes'].tensor, then['gt_bboxes'].tensor)
        assert now.keys() == then.keys()


@pytest.mark.parametrize('transform', ALL, ids=lambda t: type(t).__name__)
def test_other_images_are_refused(painter, transform):
    sample = painter.sample(60, 50)
    for image in (sample['img'][..., 0], sample['img'].astype(np.float32)):
        with pytest.raises(ValueError, match='uint8'):
            run(painter, transform, [{**sample, 'img': image}] * 4)


@pytest.mark.parametrize('transform', ALL[:-1], ids=lambda t: type(t).__name__)
def test_masks_and_other_boxes_are_refused(painter, transform):
    sample = painter.sample(60, 50)
    with pytest.raises(ValueError, match='gt_masks'):
        run(painter, transform, [{**sample, 'gt_masks': [1]}] * 4)
    with pytest.raises(ValueError, match='HorizontalBoxes, got ndarray'):
        run(painter, transform, [{**sample, 'gt_bboxes': np.zeros((0, 4))}] * 4)


@pytest.mark.parametrize(
    ('build', 'message'),
    [
        (lambda: Letterbox(0), 'size_hw must be .* got 0'),
        (lambda: Letterbox((10, 20, 30)), 'size_hw'),
        (lambda: Letterbox(32.5), 'size_hw'),
        (lambda: Letterbox(32, pad_val=300), r'pad_val must be in \[0, 255\], got 300'),
        (lambda: Letterbox(32, interpolation='cubic'), "one of .*'bilinear'.* got 'cubic'"),
        (lambda: Mosaic(32, prob=1.5), 'prob'),
        (lambda: RandomAffine(32, scale=1), r'scale must be in \[0, 1\), got 1'),
        (lambda: RandomAffine(32, translate=-0.1), 'translate'),
        (lambda: RandomAffine(32, shear=45), 'shear'),
        (lambda: RandomAffine(32, degrees='ten'), 'degrees'),
        (lambda: MixUp(2), 'prob'),
        (lambda: MixUp(alpha=0), 'alpha'),
        (lambda: HSVJitter(hue=2), 'hue'),
        (lambda: MosaicAffine(32, prob=2), 'prob'),
        (lambda: MosaicAffine(32, scale=2), 'scale'),
        (lambda: HorizontalFlip(-1), 'prob'),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()
