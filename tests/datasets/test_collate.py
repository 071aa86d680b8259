"""A batch as one tensor, and what mmdet's preprocessor makes of it."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader

from mmyolo_ext.datasets import stack_inputs
from mmyolo_ext.registry import FUNCTIONS, MODELS


def samples(shapes):
    torch.manual_seed(0)
    made = []
    for shape in shapes:
        sample = DetDataSample(metainfo={'img_shape': shape})
        boxes = HorizontalBoxes(torch.rand(2, 4).sort().values * 20)
        sample.gt_instances = InstanceData(bboxes=boxes, labels=torch.tensor([0, 1]))
        sample.ignored_instances = InstanceData(bboxes=HorizontalBoxes([]), labels=torch.zeros(0, dtype=torch.long))
        made.append({'inputs': torch.randint(0, 256, (3, *shape), dtype=torch.uint8), 'data_samples': sample})
    return made


def as_pictures(batch):
    """The same samples, their pixels as they lie in a picture."""
    for sample in batch:
        sample['inputs'] = sample['inputs'].permute(1, 2, 0).contiguous().permute(2, 0, 1)
    return batch


@pytest.mark.parametrize('pictures', [False, True])
@pytest.mark.parametrize('shapes', [[(32, 64)] * 3, [(20, 30)] * 2, [(32, 64), (64, 32)], [(1, 1)] * 2, [(1, 7)] * 2])
def test_the_network_gets_the_same(shapes, pictures):
    scale = {'mean': [0] * 3, 'std': [255] * 3, 'bgr_to_rgb': True, 'pad_size_divisor': 32}
    preprocessor = MODELS.build({'type': 'mmdet.DetDataPreprocessor', **scale})
    ours = stack_inputs(as_pictures(samples(shapes)) if pictures else samples(shapes))
    ours, theirs = preprocessor(ours, True), preprocessor(pseudo_collate(samples(shapes)), True)
    assert torch.equal(ours['inputs'], theirs['inputs'])
    for one, other in zip(ours['data_samples'], theirs['data_samples'], strict=True):
        assert one.metainfo == other.metainfo
        assert torch.equal(one.gt_instances.bboxes, other.gt_instances.bboxes)


def test_equal_sizes_are_stacked_uint8():
    assert FUNCTIONS.get('mmyolo_ext.stack_inputs') is stack_inputs
    batch = stack_inputs(samples([(8, 6)] * 4))
    assert batch['inputs'].shape == (4, 3, 8, 6) and batch['inputs'].dtype == torch.uint8
    assert isinstance(stack_inputs(samples([(8, 6), (6, 8)]))['inputs'], list)
    pictures = stack_inputs(as_pictures(samples([(8, 6)] * 4)))
    assert torch.equal(pictures['inputs'], batch['inputs']) and pictures['inputs'].is_contiguous()


@pytest.mark.parametrize('pictures', [False, True])
def test_a_worker_stacks_into_shared_memory(pictures):
    made = samples([(8, 6)] * 4)
    loader = DataLoader(as_pictures(made) if pictures else made, batch_size=4, num_workers=1, collate_fn=stack_inputs)
    (batch,) = loader
    assert batch['inputs'].is_shared()
    assert torch.equal(batch['inputs'], stack_inputs(samples([(8, 6)] * 4))['inputs'])
