"""``tools/convert_weights.py``: what it writes can be used, and what it prints is so."""

import os
import pickle
import subprocess
from pathlib import Path

import pytest
import torch
from forked import run_python
from mmengine.config import Config

from mmyolo_ext.apis import load_config
from mmyolo_ext.checkpoint.network import describe
from mmyolo_ext.checkpoint.ultralytics import to_ultralytics
from mmyolo_ext.cli.convert_weights import convert_file
from mmyolo_ext.registry import MODELS

ROOT = Path(__file__).parents[2]
BCCD = ROOT / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'


@pytest.fixture(scope='module')
def weights() -> dict[str, torch.Tensor]:
    model = MODELS.build(load_config(BCCD).model)
    generator = torch.Generator().manual_seed(0)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand(tensor.shape, generator=generator))
    return model.state_dict()


@pytest.fixture
def foreign(tmp_path: Path, weights: dict) -> Path:
    path = tmp_path / 'foreign.pt'
    torch.save(to_ultralytics(weights, describe(weights)), path)
    return path


def counts(lines: list[str]) -> dict[str, int]:
    lines = '\n'.join(lines).splitlines()
    rows = [line.rsplit(maxsplit=1) for line in lines if line.startswith('  ') and line.split()[-1].isdigit()]
    return {kind.strip(): int(count) for kind, count in rows}


def same(path: Path, weights: dict) -> bool:
    given = torch.load(path)
    given = given.get('state_dict', given)
    return all(torch.equal(given[name], tensor) for name, tensor in weights.items())


def test_from_ultralytics_and_back(tmp_path: Path, foreign: Path, weights: dict) -> None:
    target = tmp_path / 'out' / 'ours.pth'
    lines = convert_file(foreign, target, 'auto', 'mmyolo_ext', BCCD)
    # 24 layers with weights: 57 convolutions under a batch norm of 4 tensors each, 3 of the head with a bias
    assert counts(lines) == {
        'matched': 57 * 5 + 6, 'missing': 0, 'unexpected': 0, 'of another shape': 0, 'no weights, left out': 1
    }  # fmt: skip
    assert lines[-2:] == [f'written: {target}', f'written: {target.with_suffix(".py")}']
    assert same(target, weights)

    cfg = load_config(target.with_suffix('.py'))
    assert cfg.load_from == str(target) and cfg.train_dataloader.batch_size == 16
    MODELS.build(cfg.model).load_state_dict(torch.load(target)['state_dict'])

    back = tmp_path / 'back.pt'
    lines = convert_file(target, back, 'auto', 'ultralytics', target.with_suffix('.py'))
    assert 'converted back, all weights are bit-identical; added: model.24.anchors' in lines
    assert same(back, torch.load(foreign)) and len(torch.load(back)) == len(torch.load(foreign))
    # the file names no classes, the config does
    text = back.with_suffix('.yaml').read_text()
    assert '  2: "Platelets"' in text and 'nc: 3' in text

    again = tmp_path / 'again.pth'
    convert_file(back, again, 'ultralytics', 'mmyolo_ext', None)
    assert same(again, weights)


def test_the_command(tmp_path: Path, foreign: Path) -> None:
    def run(*arguments: object) -> subprocess.CompletedProcess:
        return run_python(ROOT / 'tools' / 'convert_weights.py', *arguments, cwd=tmp_path)

    done = run(foreign, 'ours.pth')
    assert done.returncode == 0, done.stderr
    assert 'YOLOv5 P5 v6, deepen_factor 0.33, widen_factor 0.25' in done.stdout and 'matched' in done.stdout

    marker = tmp_path / 'ran'
    hostile = tmp_path / 'hostile.pt'
    hostile.write_bytes(pickle.dumps({'model': Intruder(marker)}))
    done = run(hostile, 'x.pth')
    assert done.returncode == 2 and not marker.exists()
    assert done.stderr.count('\n') == 1 and 'error: the checkpoint' in done.stderr and 'system' in done.stderr
    assert not (tmp_path / 'x.pth').exists() and not (tmp_path / 'x.py').exists()


class Intruder:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple:
        return os.system, (f'touch {self.marker}',)


def test_what_stands_in_the_way(tmp_path: Path, foreign: Path) -> None:
    def stopped(message: str, source: Path, target: str, **changed: object) -> None:
        arguments = {'source_format': 'auto', 'target_format': 'mmyolo_ext', 'config': None, **changed}
        before = sorted(tmp_path.iterdir())
        with pytest.raises(ValueError, match=message):
            convert_file(source, tmp_path / target, **arguments)
        assert sorted(tmp_path.iterdir()) == before

    stopped('there is no checkpoint', tmp_path / 'absent.pt', 'x.pth')
    stopped('must be a .pth or .pt file', foreign, 'x.onnx')
    stopped('DST is SRC', foreign, 'foreign.pt')
    stopped('there is no config', foreign, 'x.pth', config=tmp_path / 'absent.py')
    light = ROOT / 'configs' / 'light' / 'yolov5_shufflenetv2-0.5_320_bccd.py'
    stopped(
        'has the backbone mmyolo_ext.ShuffleNetV2 .*: name a config of a YOLOv5 P5', foreign, 'x.pth', config=light
    )
    p6 = ROOT / 'configs' / 'yolov5' / 'yolov5_n6_1280_coco.py'
    stopped('YOLOv5CSPDarknet P6: name a config of a YOLOv5 P5', foreign, 'x.pth', config=p6)
    stopped('foreign.pt cannot be converted: its names are not', foreign, 'x.pth', source_format='mmyolo_ext')
    (tmp_path / 'mine.py').write_text('precious = True')
    stopped('mine.py would be overwritten', foreign, 'mine.pth')
    backbone = tmp_path / 'classifier.pth'
    torch.save({'features.0.0.weight': torch.zeros(16, 3, 3, 3)}, backbone)
    stopped('is of backbone and does not describe its network: give --config, of a model with', backbone, 'x.pth')
    stopped('only YOLOv5 detectors can be written', backbone, 'x.pth', target_format='ultralytics')
    (tmp_path / 'some.weights').write_bytes(b'\0' * 20)
    stopped('is of darknet .* or the .cfg file itself', tmp_path / 'some.weights', 'x.pth')
    stopped('a file of Darknet, which names no layers', tmp_path / 'some.weights', 'x.pth', config=BCCD)
    for content, message in ((b'', 'is empty'), (foreign.read_bytes()[:-500], 'cannot be read')):
        (tmp_path / 'broken.pt').write_bytes(content)
        stopped(message, tmp_path / 'broken.pt', 'x.pth')


def test_a_classifier_of_torchvision(tmp_path: Path, golden_dir: Path) -> None:
    source = golden_dir / 'torchvision_shufflenet_v2_x0_5.pth'
    target = tmp_path / 'shuffle.pth'
    light = ROOT / 'configs' / 'light' / 'yolov5_shufflenetv2-0.5_320_bccd.py'
    lines = convert_file(source, target, 'auto', 'mmyolo_ext', light)
    found = counts(lines)
    assert found['missing'] == found['unexpected'] == found['of another shape'] == 0 and found['matched'] == 275
    # its last convolution, under a batch norm of 5 with the counter, and the classifier of 2
    assert '  8 more are not part of it (classifier, later stages)' in lines
    assert Config.fromfile(target.with_suffix('.py')).load_from == str(target)
    assert all(name.startswith('backbone.layers.') for name in torch.load(target)['state_dict'])


TINY_CFG = """[net]
width=32
height=32
channels=3
[convolutional]
batch_normalize=1
filters=4
size=3
stride=2
pad=1
activation=leaky
[convolutional]
filters=7
size=1
stride=1
pad=0
activation=linear
[yolo]
mask=0
anchors=4,4
classes=2
num=1
"""


def test_darknet(tmp_path: Path) -> None:
    cfg_file, source, target = tmp_path / 'tiny.cfg', tmp_path / 'tiny.weights', tmp_path / 'tiny.pth'
    cfg_file.write_text(TINY_CFG)
    model = MODELS.build({'type': 'mmyolo_ext.DarknetCfg', 'cfg_file': str(cfg_file)})
    model.save_weights(source)
    lines = convert_file(source, target, 'auto', 'mmyolo_ext', cfg_file)
    assert counts(lines)['matched'] == 7 and counts(lines)['missing'] == 0
    assert same(target, {name: tensor for name, tensor in model.state_dict().items() if 'num_b' not in name})
    cfg = load_config(target.with_suffix('.py'))
    assert cfg.model.type == 'mmyolo_ext.DarknetCfg' and cfg.load_from == str(target)
    again = tmp_path / 'again.pth'
    convert_file(source, again, 'darknet', 'mmyolo_ext', target.with_suffix('.py'))
    assert same(again, torch.load(target)['state_dict'])
