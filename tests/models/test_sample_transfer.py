"""Annotations go to the device together, and come out as mmengine's ``to`` has them."""

import pytest
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from torch.utils._python_dispatch import TorchDispatchMode

from mmyolo_ext.models.sample_transfer import samples_to


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
