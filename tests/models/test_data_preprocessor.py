"""Our preprocessor gives the same bits as mmdet's."""

import copy

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from torch import nn

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


def images(*shape: int) -> torch.Tensor:
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
        images(3, 3, 64, 96),
        [*images(2, 3, 64, 96)],
        [images(3, 64, 96), images(3, 60, 40)],
        images(2, 3, 50, 70),
    ],
    ids=['stacked', 'list', 'of several sizes', 'to be padded'],
)
def test_equals_mmdet(settings: dict, inputs) -> None:
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


def test_the_input_batch_is_unchanged() -> None:
    data = batch(images(2, 3, 32, 32))
    before = data['inputs'].clone()
    MODELS.build({'type': 'mmyolo_ext.DataPreprocessor', **IMAGENET})(data, True)
    assert torch.equal(data['inputs'], before)


class Halve(nn.Module):
    """A batch augmentation as in mmdet."""

    def forward(self, inputs, samples):
        return inputs / 2, samples[:1]


def test_augmentations_of_a_batch_are_for_training() -> None:
    data = batch(images(2, 3, 32, 32))
    for training, count in ((True, 1), (False, 2)):
        preprocessor = MODELS.build({'type': 'mmyolo_ext.DataPreprocessor', **OURS})
        preprocessor.batch_augments = nn.ModuleList([Halve()])
        found = preprocessor(copy.deepcopy(data), training)
        assert len(found['data_samples']) == count
        assert found['inputs'].max() == pytest.approx(1 / (2 if training else 1), abs=0.01)
