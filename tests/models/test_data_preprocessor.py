"""Our preprocessor: mmdet's, to the last bit."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from mmyolo_ext.models.data_preprocessor import samples_to
from mmyolo_ext.registry import MODELS

OURS = {'mean': [0, 0, 0], 'std': [255, 255, 255], 'bgr_to_rgb': True, 'pad_size_divisor': 32, 'pad_value': 114 / 255}
IMAGENET = {'mean': [123.675, 116.28, 103.53], 'std': [58.395, 57.12, 57.375], 'pad_size_divisor': 32}


def batch(inputs) -> dict:
    samples = []
    for index in range(len(inputs)):
        sample = DetDataSample(metainfo={'img_shape': (64, 64), 'img_id': index})
        sample.gt_instances = InstanceData(bboxes=torch.ones(index, 4), labels=torch.zeros(index, dtype=torch.long))
        samples.append(sample)
    return {'inputs': inputs, 'data_samples': samples}


def pictures(*shape: int) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def both(settings: dict, data: dict, training: bool = True) -> tuple[dict, dict]:
    kinds = ('mmdet.DetDataPreprocessor', 'mmyolo_ext.DataPreprocessor')
    return tuple(MODELS.build({'type': kind, **settings})(copy.deepcopy(data), training) for kind in kinds)


@pytest.mark.parametrize(
    'settings',
    [OURS, IMAGENET, {'bgr_to_rgb': True}, {**IMAGENET, 'rgb_to_bgr': True}, {**OURS, 'mean': [0], 'std': [255]}, {}],
    ids=['ours', 'ImageNet', 'no numbers', 'to BGR', 'one number', 'nothing'],
)
@pytest.mark.parametrize(
    'inputs',
    [
        pictures(3, 3, 64, 96),
        [*pictures(2, 3, 64, 96)],
        [pictures(3, 64, 96), pictures(3, 60, 40)],
        pictures(2, 3, 50, 70),
    ],
    ids=['stacked', 'list', 'of several sizes', 'to be padded'],
)
def test_it_gives_what_mmdets_gives(settings: dict, inputs) -> None:
    theirs, ours = both(settings, batch(inputs))
    assert ours['inputs'].dtype == torch.float32 and torch.equal(theirs['inputs'], ours['inputs'])
    assert [sample.metainfo for sample in ours['data_samples']] == [s.metainfo for s in theirs['data_samples']]


def test_all_bytes_by_hand() -> None:
    inputs = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 8, 32).repeat(1, 3, 1, 1)
    inputs[:, 0] = 51  # blue of BGR
    found = MODELS.build({'type': 'mmyolo_ext.DataPreprocessor', **OURS, 'pad_size_divisor': 8})({'inputs': inputs})
    # RGB: green and red count up to 255 / 255, blue comes last, 51 / 255 = 0.2
    assert torch.equal(found['inputs'][0, 0].flatten(), torch.arange(256) / 255)
    assert torch.equal(found['inputs'][0, 2], torch.full((8, 32), 0.2)) and found['data_samples'] is None


def test_the_given_batch_stays_as_it_is() -> None:
    data = batch(pictures(2, 3, 32, 32))
    before = data['inputs'].clone()
    MODELS.build({'type': 'mmyolo_ext.DataPreprocessor', **IMAGENET})(data, True)
    assert torch.equal(data['inputs'], before)


class Halve(nn.Module):
    """Stands in for mmdet's augmentations of a whole batch."""

    def forward(self, inputs, samples):
        return inputs / 2, samples[:1]


def test_augmentations_of_a_batch_are_for_training() -> None:
    data = batch(pictures(2, 3, 32, 32))
    for training, count in ((True, 1), (False, 2)):
        preprocessor = MODELS.build({'type': 'mmyolo_ext.DataPreprocessor', **OURS})
        preprocessor.batch_augments = nn.ModuleList([Halve()])
        found = preprocessor(copy.deepcopy(data), training)
        assert len(found['data_samples']) == count
        assert found['inputs'].max() == pytest.approx(1 / (2 if training else 1), abs=0.01)


class Copies(TorchDispatchMode):
    """Counts the copies between devices."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten._to_copy.default and result.device != args[0].device:
            self.shapes.append(tuple(result.shape))
        return result


def samples(*counts):
    generator = torch.Generator().manual_seed(0)
    made = []
    for index, count in enumerate(counts):
        sample = DetDataSample(metainfo={'img_id': index, 'img_shape': (8, 9)})
        for name, boxes in (('gt_instances', count), ('ignored_instances', 1)):
            corners = HorizontalBoxes(torch.rand(boxes, 4, generator=generator))
            labels = torch.randint(0, 9, (boxes,), generator=generator)
            setattr(sample, name, InstanceData(bboxes=corners, labels=labels, soft_labels=torch.rand(boxes, 3)))
        made.append(sample)
    return made


def same(one, other):
    assert type(one) is type(other) and one.metainfo == other.metainfo and one.keys() == other.keys()
    for key in one.keys():  # noqa: SIM118  (no mapping)
        first, second = one.get(key), other.get(key)
        if isinstance(first, InstanceData | PixelData):
            same(first, second)
            continue
        assert type(first) is type(second)
        first, second = getattr(first, 'tensor', first), getattr(second, 'tensor', second)
        if isinstance(first, torch.Tensor):
            assert first.dtype == second.dtype and first.device == second.device and first.shape == second.shape
            assert first.is_meta or torch.equal(first, second)


@pytest.mark.parametrize('device', ['cpu', 'meta'])
@pytest.mark.parametrize('counts', [(2, 0, 3), (0,), (0, 0), ()])
def test_it_is_mmengines(counts, device):
    given, device = samples(*counts), torch.device(device)
    before = samples(*counts)
    with Copies() as copies:
        moved = samples_to(given, device)
    # floats (boxes and shares) in one, labels in one: of each box 4 + 3 floats, an ignored one in every sample
    total = sum(counts) + len(counts)
    assert sorted(copies.shapes) == (sorted([(7 * total,), (total,)]) if device.type == 'meta' and counts else [])
    for one, other in zip(moved, given, strict=True):
        same(one, other.to(device))
        one.gt_instances.labels = torch.full_like(one.gt_instances.labels, 7)
        one.set_metainfo({'img_id': 'another'})
    assert [sample.img_id for sample in given] == list(range(len(counts)))
    assert all(torch.equal(a.gt_instances.labels, b.gt_instances.labels) for a, b in zip(given, before, strict=True))


def test_values_stay_with_their_owners(monkeypatch):
    given = samples(2, 3)
    # a device that is never where a tensor is, reached by staying: so every tensor goes through the one copy
    monkeypatch.setattr('torch.Tensor.to', lambda tensor, device, non_blocking=False: tensor)
    moved = samples_to(given, torch.device('meta'))
    for one, other in zip(moved, given, strict=True):
        same(one, other)


def test_other_fields_go_by_themselves():
    (sample,) = samples(1)
    sample.gt_instances.masks = BitmapMasks(torch.zeros(1, 4, 5).numpy(), 4, 5)
    sample.gt_sem_seg = PixelData(sem_seg=torch.ones(1, 4, 5, dtype=torch.uint8))
    (moved,) = samples_to([sample], torch.device('meta'))
    assert moved.gt_sem_seg.sem_seg.is_meta and moved.gt_sem_seg.sem_seg.shape == (1, 4, 5)
    assert isinstance(moved.gt_instances.masks, BitmapMasks) and not sample.gt_sem_seg.sem_seg.is_meta
