"""Soft labels from the annotations to the batch, through every transform of ours."""

import copy
import json

import numpy as np
import pytest
import torch

from mmyolo_ext.datasets.transforms import (
    BoxCopyPaste,
    HorizontalFlip,
    HSVJitter,
    Letterbox,
    MixUp,
    Mosaic,
    MosaicAffine,
    PackInputs,
    RandomAffine,
)
from mmyolo_ext.datasets.transforms.annotations import join, read_annotations
from mmyolo_ext.registry import DATASETS

SIZE_HW = (96, 128)
LOAD = {'type': 'mmyolo_ext.LoadImage'}


def row(label):
    """Of ten classes: a share that tells the label, and the rest."""
    return np.eye(10, dtype=np.float32)[label] * np.float32(0.5) + np.float32(0.05)


@pytest.fixture
def soft_quartet(quartet):
    samples = copy.deepcopy(quartet[0])
    for sample in samples:
        sample['gt_soft_labels'] = np.stack([row(label) for label in sample['gt_bboxes_labels']])
    return samples


MIXING = [Mosaic(SIZE_HW), MosaicAffine(SIZE_HW), MosaicAffine(SIZE_HW, degrees=20), MixUp(1.0),
          BoxCopyPaste(1.0, source='partner')]  # fmt: skip
ALONE = [Letterbox(SIZE_HW), RandomAffine(SIZE_HW, translate=0.4), HorizontalFlip(1.0), HSVJitter(), BoxCopyPaste(1.0)]


@pytest.mark.parametrize('transform', MIXING + ALONE, ids=lambda t: type(t).__name__)
def test_rows_go_with_their_boxes(painter, soft_quartet, transform):
    boxes = 0
    for seed in range(5):
        np.random.seed(seed)
        samples = [soft_quartet[0], soft_quartet[0]] if isinstance(transform, MixUp) else soft_quartet
        samples = samples[:2] if isinstance(transform, BoxCopyPaste) else samples
        out = transform(painter.mix(samples) if transform in MIXING else copy.deepcopy(soft_quartet[0]))
        expected = [row(label) for label in out['gt_bboxes_labels']]
        np.testing.assert_array_equal(out['gt_soft_labels'], np.reshape(expected, (-1, 10)))
        boxes += len(expected)
    assert boxes


@pytest.mark.parametrize('with_flags', [True, False])
def test_packed_beside_their_boxes(soft_quartet, with_flags):
    sample = soft_quartet[0]  # labels 0 and 1, the second to be ignored
    if not with_flags:
        del sample['gt_ignore_flags']  # the way of mmdet's own packing
    packed = PackInputs(meta_keys=())(sample)['data_samples']
    expected = [row(0)] if with_flags else [row(0), row(1)]
    assert torch.equal(packed.gt_instances.soft_labels, torch.from_numpy(np.stack(expected)))
    if with_flags:
        assert packed.ignored_instances.soft_labels.tolist() == [row(1).tolist()]


def test_plain_labels_among_soft_ones_are_rows_of_0_and_1(painter, soft_quartet):
    plain = painter.sample(96, 128, [(5, 5, 40, 40)], labels=[3])
    joined = join([read_annotations(plain), read_annotations(soft_quartet[0])])
    np.testing.assert_array_equal(joined.soft_labels, [np.eye(10)[3], row(0), row(1)])
    empty = painter.sample(96, 128)
    assert join([read_annotations(empty)] * 2).soft_labels is None
    assert join([read_annotations(empty), read_annotations(soft_quartet[0])]).soft_labels.shape == (2, 10)


def test_what_does_not_fit_is_refused(painter, soft_quartet):
    other = {**soft_quartet[1], 'gt_soft_labels': np.ones((len(soft_quartet[1]['gt_bboxes']), 4), np.float32)}
    with pytest.raises(ValueError, match='must match exactly.* size 10 .* size 4'):
        join([read_annotations(soft_quartet[0]), read_annotations(other)])
    plain = painter.sample(96, 128, [(5, 5, 40, 40)], labels=[12])
    with pytest.raises(IndexError, match='index 12 is out of bounds'):
        join([read_annotations(soft_quartet[0]), read_annotations(plain)])
    with pytest.raises(ValueError, match='1 rows of gt_soft_labels for 2 boxes'):
        read_annotations({**soft_quartet[0], 'gt_soft_labels': soft_quartet[0]['gt_soft_labels'][:1]})


def annotated(write_coco, *shares):
    """A file of the two boxes of :func:`write_coco`, with soft labels, None for none."""
    content = json.loads(write_coco().read_text())
    for annotation, share in zip(content['annotations'], shares, strict=True):
        if share is not None:
            annotation['soft_label'] = share
    return {'type': 'mmyolo_ext.CheckedCocoDataset', 'metainfo': {'classes': ('cat', 'dog')},
            'data_prefix': {'img': ''}, 'pipeline': [],
            'ann_file': str(write_coco(annotations=content['annotations']))}  # fmt: skip


def test_read_from_a_file(write_coco):
    both = DATASETS.build(annotated(write_coco, [0.25, 0.75], [0, 1]))
    assert both[0]['gt_soft_labels'].tolist() == [[0.25, 0.75], [0, 1]]
    assert both[0]['gt_soft_labels'].dtype == np.float32 and 'gt_soft_labels' not in both[1]
    one = DATASETS.build(annotated(write_coco, None, [0.5, 0.5]))
    assert one[0]['gt_soft_labels'].tolist() == [[1, 0], [0.5, 0.5]]  # the first is a cat
    assert 'gt_soft_labels' not in DATASETS.build(annotated(write_coco, None, None))[0]


@pytest.mark.parametrize(
    ('share', 'message'),
    [
        ([1], r'soft_label of annotation 2 must be a list of 2 numbers.*got \[1\]'),
        ([0.5, 0.5, 0], 'annotation 2 must be a list of 2 numbers'),
        (0.5, 'annotation 2 must be a list of 2 numbers'),
        (['a', 0], 'annotation 2 must be a list of 2 numbers'),
        ([1.5, -0.5], r'annotation 2 must be numbers in \[0, 1\]'),
        ([0.9, 0.9], 'annotation 2 must be numbers with sum 1.*exclusive_soft_labels=False'),
    ],
)
def test_a_bad_row_is_named(write_coco, share, message):
    with pytest.raises(ValueError, match=message):
        DATASETS.build(annotated(write_coco, [1, 0], share))


def test_shares_of_classes_that_contain_each_other(write_coco):
    config = {**annotated(write_coco, [0.9, 0.9], None), 'exclusive_soft_labels': False}
    assert DATASETS.build(config)[0]['gt_soft_labels'].tolist() == [[np.float32(0.9)] * 2, [0, 1]]


def test_through_the_cache_and_the_mosaic(coco_config, coco_folder, tmp_path):
    """Two classes whose second share is the number of the box: each goes where its box goes."""
    content = json.loads((coco_folder / 'train.json').read_text())
    content['categories'].append({'id': 2, 'name': 'other'})
    for annotation in content['annotations']:
        share = annotation['id'] / 100
        annotation['soft_label'] = [1 - share, share]
    (tmp_path / 'soft.json').write_text(json.dumps(content))
    changes = {'ann_file': str(tmp_path / 'soft.json'), 'metainfo': {'classes': ('thing', 'other')}}
    cached = {'type': 'mmyolo_ext.CachedDataset', 'size': 32, 'dataset': coco_config(pipeline=[LOAD], **changes)}
    pack = {'type': 'mmyolo_ext.PackInputs', 'meta_keys': ('img_id',)}
    steps = [{'type': 'mmyolo_ext.MosaicAffine', 'size': 32}, {'type': 'mmyolo_ext.HorizontalFlip'}, pack]
    config = {'type': 'mmyolo_ext.MixDataset', 'dataset': cached, 'pipeline': steps}
    dataset = DATASETS.build({'type': 'mmyolo_ext.SeededDataset', 'dataset': config})
    cached, plain = dataset.dataset.dataset, DATASETS.build(coco_config(**changes))
    for index in range(12):
        expected = [
            [1 - k / 100, k / 100] for k in (a['id'] for a in content['annotations'] if a['image_id'] == index)
        ]
        for sample in (cached[index], plain[index]):
            np.testing.assert_allclose(sample.get('gt_soft_labels', np.zeros((0, 2))), np.reshape(expected, (-1, 2)))
    seen = set()
    for index in range(12):
        instances = dataset[index]['data_samples'].gt_instances
        assert len(instances.get('soft_labels', instances.labels)) == len(instances)
        seen |= {round(share * 100) for share in instances.soft_labels[:, 1].tolist()}
    assert len(seen) > 10 and seen <= {annotation['id'] for annotation in content['annotations']}
