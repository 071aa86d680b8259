"""Weights with NaN or infinity are named and refused, by whichever tool reads them."""

import math
import runpy
import sys

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.checkpoint.safe_load import check_finite, non_finite_names


def test_names_of_what_is_not_finite():
    state = {
        'good': torch.ones(2),
        'nan': torch.tensor([1.0, math.nan]),
        'counter': torch.tensor(3),
        'mask': torch.tensor([0.0, -math.inf]),  # is added to attention scores
        'half': torch.tensor([math.inf], dtype=torch.float16),
        'optimizer': {'state': {0: {'momentum_buffer': torch.tensor([-math.inf, 1.0])}}, 'lr': [math.nan]},
        'empty': torch.zeros(0),
    }
    assert non_finite_names(state) == ['nan', 'half', 'optimizer.state.0.momentum_buffer']
    check_finite({'good': state['good'], 'mask': state['mask']}, 'a file')


def test_the_message_names_the_file_and_three_tensors():
    state = {f'layer{number}': torch.tensor(math.nan) for number in range(5)}
    with pytest.raises(ValueError, match=r'run/epoch_3\.pth holds NaN .* layer0, layer1, layer2 and 2 more') as error:
        check_finite(state, 'run/epoch_3.pth')
    assert '\n' not in str(error.value)


@pytest.fixture(scope='module')
def poisoned(tmp_path_factory) -> tuple[Config, str, str]:
    """A config and a checkpoint for it with one NaN in a running mean."""
    folder = tmp_path_factory.mktemp('poisoned')
    config = write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data'))
    cfg = load_config(config)
    init_default_scope('mmdet')
    state = MODELS.build(cfg.model).state_dict()
    name = next(name for name in state if name.endswith('running_mean'))
    state[name][0] = math.nan
    torch.save({'state_dict': state, 'meta': {}}, folder / 'nan.pth')
    return config, folder / 'nan.pth', name


def test_the_detector_refuses_it(poisoned):
    config, checkpoint, name = poisoned
    with pytest.raises(ValueError, match=f'nan.pth holds NaN or infinity in {name}'):
        Detector(config, checkpoint, 'cpu')


@pytest.mark.parametrize('tool', ['test.py', 'predict.py', 'export.py', 'train.py'])
def test_the_tools_refuse_it_in_one_line(poisoned, tool, tmp_path, monkeypatch, capfd):
    config, checkpoint, name = poisoned
    arguments = {
        'test.py': [checkpoint, '--work-dir', tmp_path],
        'predict.py': [checkpoint, config.parent / 'data' / 'val', '--out-dir', tmp_path],
        'export.py': [checkpoint, '--out', tmp_path / 'model.onnx'],
        'train.py': ['--work-dir', tmp_path, '--cfg-options', f'load_from={checkpoint}'],
    }
    monkeypatch.setattr(sys, 'argv', [tool, str(config), *map(str, arguments[tool])])
    monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(REPO / 'tools' / tool), run_name='__main__')
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith('error: ')]
    assert end.value.code == 2 and len(lines) == 1
    assert 'nan.pth holds NaN or infinity' in lines[0] and name in lines[0]
