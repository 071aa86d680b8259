"""mmdet's mixing without its copies: the same samples, and inputs left alone."""

import copy

import numpy as np
import pytest
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes

from mmyolo_ext.datasets import MixDataset
from mmyolo_ext.datasets.transforms import HorizontalFlip, PackInputs
from mmyolo_ext.registry import DATASETS, TRANSFORMS

SIZE = 32
PACK = {'type': 'mmdet.PackDetInputs', 'meta_keys': ('img_id', 'flip')}


def build(inner, pipeline, kind='mmyolo_ext.MixDataset', **options):
    return DATASETS.build({'type': kind, 'dataset': inner, 'pipeline': pipeline, **options})


def content(sample):
    data = sample['data_samples']
    boxes = data.gt_instances.bboxes.tensor.numpy().tobytes()
    return sample['inputs'].numpy().tobytes(), boxes, data.gt_instances.labels.tolist(), data.img_id, data.get('flip')


def test_samples_are_those_of_mmdet(coco_config):
    mosaic = [
        {'type': 'mmyolo_ext.Mosaic', 'size': SIZE, 'prob': 0.7},
        {'type': 'mmyolo_ext.RandomAffine', 'size': SIZE},
    ]
    mixup = [{'type': 'mmyolo_ext.MixUp', 'prob': 0.5}, {'type': 'mmyolo_ext.HSVJitter'},
             {'type': 'mmdet.RandomFlip', 'prob': 0.5}, PACK]  # fmt: skip
    samples = []
    for kind in ('mmyolo_ext.MixDataset', 'mmdet.MultiImageMixDataset'):
        inner = {'type': kind, 'dataset': coco_config(), 'pipeline': mosaic}
        dataset = build(inner, mixup, kind)
        assert len(dataset) == 12
        np.random.seed(0)
        samples.append([content(dataset[i]) for i in range(12)])
    assert samples[0] == samples[1]


@pytest.mark.parametrize('closed', [False, True])
def test_one_list_gives_the_samples_of_nested_datasets(coco_config, closed):
    """A partner has passed the steps before: one list equals a MixDataset around another, to the bit."""
    first = [{'type': 'mmyolo_ext.BoxCopyPaste', 'prob': 0.5, 'max_copies': 3, 'source': 'partner'}]
    mosaic = [{'type': 'mmyolo_ext.MosaicAffine', 'size': SIZE, 'scale': 0.5, 'translate': 0.1}]
    mixup = [{'type': 'mmyolo_ext.MixUp', 'prob': 0.5}, {'type': 'mmyolo_ext.HSVJitter'}, PACK]
    inner = {'type': 'mmyolo_ext.MixDataset', 'dataset': coco_config(), 'pipeline': first}
    inner = {'type': 'mmyolo_ext.MixDataset', 'dataset': inner, 'pipeline': mosaic}
    samples = []
    for dataset, pipeline in ((inner, mixup), (coco_config(), [*first, *mosaic, *mixup])):
        seeded = DATASETS.build({'type': 'mmyolo_ext.SeededDataset', 'dataset': dataset, 'pipeline': pipeline})
        seeded.set_epoch(1, 0)
        if closed:
            seeded.close_mosaic()
        samples.append([content(seeded[i]) for i in range(12)])
    assert samples[0] == samples[1]


def test_skipping(coco_config):
    pipeline = [{'type': 'mmyolo_ext.Mosaic', 'size': SIZE}, {'type': 'mmdet.PackDetInputs', 'meta_keys': ()}]
    dataset = build(coco_config(), pipeline, skip_type_keys=['mmyolo_ext.Mosaic'])
    assert isinstance(dataset, MixDataset) and max(dataset[0]['inputs'].shape) == SIZE
    assert max(build(coco_config(), pipeline)[0]['inputs'].shape) == 2 * SIZE


@TRANSFORMS.register_module()
class ThirdTimeLucky(BaseTransform):
    """Shifts boxes in place, and gives nothing the first two times."""

    def __init__(self):
        self.calls = 0

    def transform(self, results):
        results['gt_bboxes'].translate_((1, 1))
        self.calls += 1
        return results if self.calls % 3 == 0 else None


def test_another_attempt_starts_from_the_same(coco_config):
    plain = build(coco_config(), [PACK])[3]
    dataset = build(coco_config(), [{'type': 'mmyolo_ext.ThirdTimeLucky'}, PACK])
    moved = dataset[3]['data_samples'].gt_instances.bboxes.tensor - plain['data_samples'].gt_instances.bboxes.tensor
    assert moved.unique().tolist() == [1.0]
    dataset.max_refetch = 2
    with pytest.raises(RuntimeError, match='ThirdTimeLucky gave no result in 2 attempts'):
        dataset[3]


@pytest.fixture
def sample(painter):
    sample = painter.sample(24, 30, [(1, 2, 9, 12), (4, 4, 20, 23), (0, 0, 30, 24)], ignore=[False, True, False])
    sample['img'] = np.random.RandomState(0).randint(0, 256, (24, 30, 3)).astype(np.uint8)
    return {**sample, 'img_id': 7, 'scale_factor': (1.0, 1.0)}


def test_flip_is_that_of_mmdet(sample):
    theirs = TRANSFORMS.build({'type': 'mmdet.RandomFlip', 'prob': 1.0})(copy.deepcopy(sample))
    ours = HorizontalFlip(1.0)(sample)
    np.testing.assert_array_equal(ours['img'], theirs['img'])
    assert ours['img'].flags.c_contiguous
    assert ours['gt_bboxes'].tensor.tolist() == theirs['gt_bboxes'].tensor.tolist()
    assert (ours['flip'], ours['flip_direction']) == (theirs['flip'], theirs['flip_direction']) == (True, 'horizontal')
    theirs = TRANSFORMS.build({'type': 'mmdet.RandomFlip', 'prob': 0.0})(copy.deepcopy(sample))
    ours = HorizontalFlip(0.0)(sample)
    assert (ours['flip'], ours['flip_direction']) == (theirs['flip'], theirs['flip_direction']) == (False, None)


def test_flip_draws_its_share(sample):
    np.random.seed(0)
    assert 430 < sum(HorizontalFlip(0.5)(sample)['flip'] for _ in range(1000)) < 570  # 500 +- 4.4 sigma of 15.8


@pytest.mark.parametrize('case', ['plain', 'no boxes', 'grey', 'float', 'backwards', 'no flags', 'no annotations'])
def test_packed_as_by_mmdet(sample, case):
    if case == 'no boxes':
        sample |= {'gt_bboxes': HorizontalBoxes([]), 'gt_bboxes_labels': np.zeros(0, np.int64)}
        sample['gt_ignore_flags'] = np.zeros(0, bool)
    elif case in ('grey', 'float', 'backwards'):
        image = sample['img']
        sample['img'] = {'grey': image[..., 0], 'float': image.astype(np.float32), 'backwards': image[:, ::-1]}[case]
    elif case == 'no flags':
        del sample['gt_ignore_flags']
    elif case == 'no annotations':
        sample = {key: value for key, value in sample.items() if not key.startswith('gt_')}
    meta = ('img_id', 'scale_factor', 'pad_param')
    theirs = TRANSFORMS.build({'type': 'mmdet.PackDetInputs', 'meta_keys': meta})(copy.deepcopy(sample))
    ours = PackInputs(meta_keys=meta)(sample)
    assert ours['inputs'].dtype == theirs['inputs'].dtype and ours['inputs'].tolist() == theirs['inputs'].tolist()
    one, other = ours['data_samples'], theirs['data_samples']
    assert one.metainfo == other.metainfo and set(one.keys()) == set(other.keys())
    for name in ('gt_instances', 'ignored_instances'):
        mine, host = getattr(one, name), getattr(other, name)
        assert set(mine.keys()) == set(host.keys()) and len(mine) == len(host)
        if len(host):
            assert type(mine.bboxes) is type(host.bboxes)
            assert mine.bboxes.tensor.tolist() == host.bboxes.tensor.tolist()
            assert mine.labels.dtype == host.labels.dtype and mine.labels.tolist() == host.labels.tolist()


def test_a_packed_sample_shares_no_memory_with_a_cache(sample):
    sample['img'].flags.writeable = False
    packed = PackInputs()(sample)
    sample['img'].flags.writeable = True
    before = packed['inputs'].clone(), packed['data_samples'].gt_instances.bboxes.tensor.clone()
    sample['img'][:] = 0
    sample['gt_bboxes'].tensor[:] = 0
    assert packed['inputs'].equal(before[0])
    assert packed['data_samples'].gt_instances.bboxes.tensor.equal(before[1])
