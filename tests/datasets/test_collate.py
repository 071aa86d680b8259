"""A batch as one tensor, and what mmdet's preprocessor makes of it."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.dataset import pseudo_collate
from mmengine.structures import InstanceData
from torch.utils.data import DataLoader

from mmyolo_ext.datasets import stack_inputs
from mmyolo_ext.datasets.shared_memory import empty_image, one_batch
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


def packed(shapes):
    """Samples whose pictures were written into one batch, with the pixels they should have."""
    made = samples(shapes)
    with one_batch(len(shapes)):
        for sample in made:
            place = empty_image(sample['inputs'].shape)
            sample['inputs'] = place.copy_(sample['inputs'])
    return made


def test_a_batch_in_its_memory_is_not_copied():
    made = packed([(8, 6)] * 4)
    batch = stack_inputs(made)
    assert torch.equal(batch['inputs'], stack_inputs(samples([(8, 6)] * 4))['inputs'])
    assert batch['inputs'].data_ptr() == made[0]['inputs'].data_ptr() and batch['inputs'].is_contiguous()


@pytest.mark.parametrize('order', [[1, 0, 2, 3], [0, 1, 2], [1, 2, 3], [0, 0, 2, 3], [3]])
def test_places_out_of_order_are_stacked(order):
    made = packed([(8, 6)] * 4)
    expected = torch.stack([samples([(8, 6)] * 4)[k]['inputs'] for k in order])
    assert torch.equal(stack_inputs([made[k] for k in order])['inputs'], expected)


def test_another_shape_has_memory_of_its_own():
    made = packed([(8, 6), (6, 8), (8, 6)])
    assert isinstance(stack_inputs(made)['inputs'], list)
    expected = samples([(8, 6), (6, 8), (8, 6)])
    assert all(torch.equal(a['inputs'], b['inputs']) for a, b in zip(made, expected, strict=True))
    assert torch.equal(stack_inputs(made[::2])['inputs'], torch.stack([expected[k]['inputs'] for k in (0, 2)]))


@pytest.mark.parametrize('pictures', [False, True])
@pytest.mark.parametrize('shapes', [[(8, 6)] * 4, [(8, 6), (6, 8)]])
def test_a_worker_sends_what_it_stacked(shapes, pictures):
    made = samples(shapes)
    made = as_pictures(made) if pictures else made
    (sent,) = DataLoader(made, batch_size=len(made), num_workers=1, collate_fn=stack_inputs)
    expected = stack_inputs(samples(shapes))
    assert type(sent) is dict and sent.keys() == expected.keys()
    for one, other in zip(sent['inputs'], expected['inputs'], strict=True):
        assert torch.equal(one, other)
    for one, other in zip(sent['data_samples'], expected['data_samples'], strict=True):
        assert one.metainfo == other.metainfo and type(one.gt_instances.bboxes) is HorizontalBoxes
        assert torch.equal(one.gt_instances.bboxes.tensor, other.gt_instances.bboxes.tensor)
        assert torch.equal(one.gt_instances.labels, other.gt_instances.labels)
        assert one.ignored_instances.bboxes.tensor.shape == (0, 4)
        one.gt_instances.labels += 1  # it can be written to


def test_large_tensors_and_those_with_gradients_cross_too():
    more = {'mask': torch.rand(300, 300), 'weight': torch.ones(2, requires_grad=True), 'half': torch.ones(2).half()}
    more['brain'] = torch.ones(2).bfloat16()  # which NumPy has not
    made = [{**sample, **more} for sample in samples([(8, 6)] * 2)]
    (sent,) = DataLoader(made, batch_size=2, num_workers=1, collate_fn=stack_inputs)
    for key, value in more.items():
        assert all(torch.equal(one, value) and one.dtype == value.dtype for one in sent[key])
    assert sent['mask'][0].is_shared() and not sent['half'][0].is_shared()
