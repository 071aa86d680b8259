"""``init_cfg`` of YOLOv5's backbone takes the backbone out of a detector that another tool wrote."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from yolov5_networks import build_small

from mmyolo_ext.checkpoint.conversion import convert
from mmyolo_ext.checkpoint.network import describe
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.checkpoint.ultralytics import to_ultralytics
from mmyolo_ext.models.backbones import ShuffleNetV2, YOLOv5CSPDarknet

SMALL = {'deepen_factor': 0.33, 'widen_factor': 0.25}


def started(checkpoint: Path, **options: object) -> nn.Module:
    backbone = YOLOv5CSPDarknet(init_cfg={'type': 'Pretrained', 'checkpoint': str(checkpoint)}, **options)
    backbone.init_weights()
    return backbone


def backbone_part(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {
        name.removeprefix('backbone.'): value for name, value in state_dict.items() if name.startswith('backbone.')
    }


@pytest.mark.parametrize(
    ('file', 'version'), [('v7_yolov5n.pt', 'v6'), ('v5_yolov5s_w025.pt', 'v5'), ('mmyolo_yolov5n.pth', 'v6')]
)
def test_files_of_the_original_tools(file: str, version: str, golden_dir: Path) -> None:
    given = started(golden_dir / file, version=version, **SMALL).state_dict()
    wanted = backbone_part(convert(read_checkpoint(golden_dir / file)).state_dict)
    assert given.keys() == wanted.keys()
    assert all(torch.equal(given[name], tensor) for name, tensor in wanted.items())


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    state = build_small('P5', 'v6').state_dict()
    torch.save({'model': to_ultralytics(state, describe(state)), 'epoch': -1}, tmp_path / 'theirs.pt')
    return tmp_path / 'theirs.pt'


def test_the_first_stages_alone(foreign: Path) -> None:
    backbone = started(foreign, deepen_factor=0.33, widen_factor=0.125, out_indices=(1, 2))
    wanted = backbone_part(build_small('P5', 'v6').state_dict())
    given = backbone.state_dict()
    assert len(backbone.layers) == 3 and all(torch.equal(tensor, wanted[name]) for name, tensor in given.items())


def test_a_network_that_is_another(foreign: Path, tmp_path: Path) -> None:
    # of width 0.5 nothing has the shape but the counters of the batch norms
    with pytest.raises(ValueError, match=r'theirs\.pt does not fit YOLOv5CSPDarknet: 0 of \d+ tensors match'):
        started(foreign, deepen_factor=0.33, widen_factor=0.5)
    whole = torch.load(foreign)
    whole['model'] = {name: tensor for name, tensor in whole['model'].items() if '.bn.' not in name}
    torch.save(whole, tmp_path / 'fused.pt')
    with pytest.raises(ValueError, match=r'fused\.pt cannot be taken: its batch norms are fused'):
        started(tmp_path / 'fused.pt')


def test_other_backbones_do_not_ask_for_it(foreign: Path) -> None:
    backbone = ShuffleNetV2(0.5, init_cfg={'type': 'Pretrained', 'checkpoint': str(foreign)})
    with pytest.raises(ValueError, match=r'theirs\.pt does not fit ShuffleNetV2'):
        backbone.init_weights()
