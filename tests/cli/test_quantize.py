"""tools/quantize.py: a smaller file that still finds the same, and its figures before and after."""

import re
import runpy
import sys

import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from terminal import standard_error_on_terminal
from tiny_coco import REPO, make_tiny_coco, write_user_config

from mmyolo_ext.apis import load_config
from mmyolo_ext.apis.exporting import calibration_files, export_detector
from mmyolo_ext.cli import quantize as cli
from mmyolo_ext.export.formats import Options
from mmyolo_ext.export.quantize import quantize, quantize_openvino
from mmyolo_ext.export.runtime import ExportedDetector

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A config, and an untrained network exported raw: ``model.onnx``."""
    folder = tmp_path_factory.mktemp('quantize')
    cfg = load_config(write_user_config(folder / 'mine.py', make_tiny_coco(folder / 'data')))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    torch.save({'state_dict': MODELS.build(cfg.model).state_dict(), 'meta': {}}, folder / 'weights.pth')
    export_detector(cfg, str(folder / 'weights.pth'), folder / 'model.onnx', Options())
    return folder


def test_int8_is_close_and_in_the_metadata(folder, monkeypatch, capsys):
    command = ['quantize.py', folder / 'model.onnx', folder / 'mine.py', '--images', '4']
    monkeypatch.setattr(sys, 'argv', [str(part) for part in command])
    with standard_error_on_terminal(monkeypatch) as shown:
        runpy.run_path(str(REPO / 'tools' / 'quantize.py'), run_name='__main__')
    assert re.search('Calibration .* 4/4 ', shown[0]) and re.search('Evaluation .* 3/3 ', shown[0]), shown[0]
    printed = capsys.readouterr().out
    assert 'calibrated with 4 images' in printed and 'coco/bbox_mAP: ' in printed and ' before, ' in printed
    small, large = folder / 'model_int8.onnx', folder / 'model.onnx'
    assert small.stat().st_size < large.stat().st_size
    exact, rough = ExportedDetector(large), ExportedDetector(small)
    assert rough.rules == {**exact.rules, 'precision': 'int8'}
    images = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    wanted, got = exact._run(images), rough._run(images)
    # 256 steps of each activation move scores by some thousandths, but leave none where it was
    assert 0 < np.abs(got['scores'] - wanted['scores']).max() < 0.05
    graph = onnx.load(str(small)).graph
    assert {'QuantizeLinear', 'DequantizeLinear'} <= {node.op_type for node in graph.node}
    # activations are quantised at run time, unsigned; of signed ones x86 is slow
    kinds = {part.name: part.data_type for part in graph.initializer}
    points = {kinds[node.input[2]] for node in graph.node if node.op_type == 'QuantizeLinear'}
    assert points == {onnx.TensorProto.UINT8}
    weights = {
        part.name for part in graph.initializer if part.data_type == onnx.TensorProto.FLOAT and len(part.dims) == 4
    }
    assert weights == {f'detector.bbox_head.convs_pred.{level}.weight' for level in range(3)}


def test_what_cannot_be_quantised(folder, tmp_path):
    with pytest.raises(ValueError, match='calibration needs images, got none in'):
        calibration_files(load_config(folder / 'mine.py'), str(tmp_path), 4)
    model = onnx.load(str(folder / 'model.onnx'))
    next(prop for prop in model.metadata_props if prop.key == 'precision').value = '"float16"'
    onnx.save(model, str(tmp_path / 'half.onnx'))
    with pytest.raises(ValueError, match='half.onnx has float16 weights'):
        quantize(tmp_path / 'half.onnx', tmp_path / 'a.onnx', [])


def test_openvino_by_nncf(folder, capsys):
    pytest.importorskip('openvino')
    pytest.importorskip('nncf')
    cfg, model = load_config(folder / 'mine.py'), folder / 'model.xml'
    export_detector(cfg, str(folder / 'weights.pth'), model, Options('openvino', dynamic=True))
    cli.main([str(model), str(folder / 'mine.py'), '--images', '4'])
    printed = capsys.readouterr().out
    assert ' ms after, one image' in printed and 'coco/bbox_mAP: ' in printed
    small = folder / 'model_int8.xml'
    assert small.with_suffix('.bin').stat().st_size < 0.5 * model.with_suffix('.bin').stat().st_size
    exact, rough = ExportedDetector(model), ExportedDetector(small)
    assert rough.rules == {**exact.rules, 'precision': 'int8'}
    images = np.random.default_rng(0).random((1, 3, 64, 64), np.float32)
    assert 0 < np.abs(rough._run(images)['scores'] - exact._run(images)['scores']).max() < 0.05
    # the head and the decoding stay in float32
    assert not re.findall(r'name="[^"]*bbox_head[^"]*fq_', small.read_text())
    with pytest.raises(ValueError, match='model_int8.xml has int8 weights'):
        quantize_openvino(small, folder / 'twice.xml', [])
