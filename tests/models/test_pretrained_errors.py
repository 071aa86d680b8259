"""A pretrained file or an ``init_cfg`` that is wrong is told by its name and by what is wrong."""

from pathlib import Path

import numpy as np
import pytest
import torch

from mmyolo_ext.models.backbones import ShuffleNetV2
from mmyolo_ext.models.backbones.pretrained import load_pretrained


def load(checkpoint: Path) -> None:
    backbone = ShuffleNetV2(0.5)
    load_pretrained(backbone, {'type': 'Pretrained', 'checkpoint': str(checkpoint)}, backbone.translate)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        ({'state_dict': {}}, 'holds no weights by name, but a dict of state_dict \\(dict\\);'),
        ({}, 'a dict of nothing'),
        ([torch.zeros(1)], 'an object of list'),
        (torch.nn.Linear(1, 1), 'an object of torch.nn.modules.linear.Linear'),
        (
            {'model': torch.nn.Linear(1, 1), 'epoch': 3},
            r'a dict of model \(torch.nn.modules.linear.Linear\), epoch \(int\)',
        ),
        ({f'array{i}': np.zeros(1) for i in range(6)}, r'a dict of array0 \(.*\), .*, array4 \(.*\), \.\.\.'),
    ],
)
def test_a_file_without_weights(content: object, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / 'some.pth')
    with pytest.raises(
        ValueError, match=rf'some\.pth .*{message}.*must be a state dict, or have one under state_dict'
    ):
        load(tmp_path / 'some.pth')


def test_weights_of_a_training_that_diverged(tmp_path: Path) -> None:
    weights = ShuffleNetV2(0.5).state_dict()
    weights['layers.0.conv.bn.running_var'][3] = float('inf')
    torch.save(weights, tmp_path / 'some.pth')
    with pytest.raises(
        ValueError, match=r'some\.pth has NaN or infinite values in 1 tensors \(layers\.0\.conv\.bn\.runn'
    ):
        load(tmp_path / 'some.pth')


def test_files_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r'no checkpoint .*some\.pth'):
        load(tmp_path / 'some.pth')
    (tmp_path / 'some.pth').write_bytes(b'PK\x03\x04 cut')
    with pytest.raises(ValueError, match=r'some\.pth cannot be read'):
        load(tmp_path / 'some.pth')


def test_init_cfg_is_checked() -> None:
    backbone = ShuffleNetV2(0.5)
    with pytest.raises(ValueError, match=r"has the keys .*'prefix'.*got \['file'\]"):
        load_pretrained(backbone, {'type': 'Pretrained', 'file': 'x.pth'}, backbone.translate)
    with pytest.raises(ValueError, match='needs a checkpoint, a path or URL, got None'):
        load_pretrained(backbone, {'type': 'Pretrained', 'checkpoint': None}, backbone.translate)
