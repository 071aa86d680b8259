"""The file to copy: the same pixels, the same boxes, and nothing but NumPy, OpenCV and onnxruntime."""

import ast
import json
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from tiny_coco import REPO, make_tiny_coco, write_user_config
from untrained import stir

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.apis.exporting import evaluate_exported, export_detector
from mmyolo_ext.datasets.transforms import Letterbox
from mmyolo_ext.export import runtime
from mmyolo_ext.export.formats import Options

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

# no other module of the environment can be imported by what runs after it
ALONE = """
import importlib.abc, runpy, sys
class Refuse(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] in {refused!r}:
            raise ImportError('refused: ' + name)
sys.meta_path.insert(0, Refuse())
sys.argv[:] = {argv!r}
runpy.run_path(sys.argv[0], run_name='__main__')
print(sorted({refused!r} & {{name.split('.')[0] for name in sys.modules}}))
"""
REFUSED = {'mmyolo_ext', 'mmdet', 'mmengine', 'mmcv', 'torch', 'torchvision', 'onnx', 'matplotlib', 'pycocotools'}


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
    """(config, checkpoint, images, files): files are ONNX of open size, of a fixed one, and with NMS inside."""
    folder = tmp_path_factory.mktemp('runtime')
    data = make_tiny_coco(folder / 'data')
    cfg = load_config(write_user_config(folder / 'mine.py', data))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    stir(model)
    checkpoint = folder / 'weights.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'CLASSES': ('red', 'blue')}}}, checkpoint)
    files = {}
    for name, options in {
        'open': Options(dynamic=True, fused=True),
        'fixed': Options(),
        'nms': Options(nms=True),
    }.items():
        files[name] = folder / f'{name}.onnx'
        export = export_detector(cfg, str(checkpoint), files[name], options)
        assert export.files == (files[name],) and export.difference.within(export.bound)
    return cfg, checkpoint, sorted((data / 'val').glob('*.png')), files


@pytest.mark.parametrize('name', ['open', 'fixed', 'nms'])
def test_the_boxes_are_those_of_predict(setup, name):
    cfg, checkpoint, image_paths, files = setup
    wanted = list(Detector(cfg, checkpoint, 'cpu', nms_iou=None)(image_paths, score_thr=0.25))
    found = runtime.ExportedDetector(files[name], threads=1)(image_paths, score_thr=0.25)
    assert sum(len(one.scores) for one in wanted) > 20
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.labels.tolist() == theirs.labels.tolist()
        np.testing.assert_allclose(ours.boxes_xyxy, theirs.boxes_xyxy, rtol=0, atol=0.1)
        np.testing.assert_allclose(ours.scores, theirs.scores, rtol=0, atol=1e-4)


def test_the_figures_are_those_of_a_batch_of_rectangles(setup):
    cfg, _, image_paths, files = setup
    detector = runtime.ExportedDetector(files['open'], threads=1)
    figures = evaluate_exported(detector, load_config(cfg.filename))
    assert 0 <= figures['coco/bbox_mAP'] <= 1
    # a batch on the canvas of its rectangle is the images one by one on it
    both = detector(image_paths[:2], canvas_hw=(96, 64))
    for index in range(2):
        (one,) = detector(image_paths[index : index + 1], canvas_hw=(96, 64))
        np.testing.assert_allclose(one.boxes_xyxy, both[index].boxes_xyxy, atol=1e-3)


@pytest.mark.parametrize('centred', [False, True])
@pytest.mark.parametrize('allow_upscale', [False, True])
@pytest.mark.parametrize('interpolation', ['bilinear', 'area', 'nearest'])
def test_the_letterbox_is_that_of_validation(centred, allow_upscale, interpolation):
    rng = np.random.default_rng(0)
    rule = {'pad_val': 114, 'centred': centred, 'allow_upscale': allow_upscale, 'interpolation': interpolation}
    for _ in range(20):
        image = rng.integers(0, 256, (*rng.integers(1, 200, 2), 3), np.uint8)
        size_hw, canvas_hw = (tuple(int(side) * 32 for side in rng.integers(1, 5, 2)) for _ in range(2))
        wanted = Letterbox(size_hw, **rule)({'img': image, 'batch_shape_hw': canvas_hw})
        canvas, scale_wh, (left, top) = runtime.letterbox(image, size_hw, canvas_hw, rule)
        np.testing.assert_array_equal(canvas, wanted['img'])
        assert scale_wh == wanted['scale_factor'] and (top, left) == wanted['pad_param'][::2]


def test_tiles_of_an_exported_file(setup):
    """The boxes of six tiles of an image, merged, are those of PyTorch on the same tiles."""
    cfg, checkpoint, image_paths, files = setup
    image = cv2.resize(cv2.imread(str(image_paths[0])), (150, 100))
    wanted = Detector(cfg, checkpoint, 'cpu', tile=64, overlap=0.2)(image, score_thr=0.25)
    found = Detector(files['open'], tile=64, overlap=0.2)(image, score_thr=0.25)
    assert found.labels.tolist() == wanted.labels.tolist() and len(found.labels) > 20
    np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, rtol=0, atol=0.1)
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-4)
    assert (found.boxes_xyxy.max(axis=0) > [86, 36, 128, 64]).all()  # there are boxes in the last tile


def test_the_example_of_the_guide(setup, tmp_path, monkeypatch, capsys):
    _, _, image_paths, files = setup
    shutil.copy(runtime.__file__, tmp_path)
    shutil.copy(files['open'], tmp_path / 'epoch_100.onnx')
    for name, path in zip(('a.jpg', 'b.jpg'), image_paths[:2], strict=True):
        cv2.imwrite(str(tmp_path / name), cv2.imread(str(path)))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    text = (REPO / 'docs/guides/export.md').read_text(encoding='utf-8')
    code = text[text.index('from runtime import') :]
    names = {}
    exec(code[: code.index('```')], names)
    monkeypatch.delitem(sys.modules, 'runtime')
    detector = runtime.ExportedDetector('epoch_100.onnx')
    wanted = [row for found in detector(['a.jpg', 'b.jpg'], score_thr=0.3) for row in zip(*found, strict=True)]
    printed = [f'{detector.names[label]} {score!s} {box}' for box, score, label in wanted]
    assert capsys.readouterr().out.splitlines() == printed and len(printed) > 5
    assert all(type(part) is np.ndarray for part in names['found'])


def test_boxes_are_mapped_to_the_image_and_clipped():
    found = runtime.Detections(np.float32([[20, 10, 60, 50], [0, 0, 200, 200]]), np.ones(2), np.zeros(2))
    # scaled by 1/2 in width and 1/4 in height, 10 px left and 5 px above: (20 - 10) * 2 = 20, (10 - 5) * 4 = 20, ...
    moved = runtime.to_image(found, (0.5, 0.25), (10, 5), (150, 120))
    np.testing.assert_array_equal(moved.boxes_xyxy, [[20, 20, 100, 150], [0, 0, 120, 150]])


def test_the_copied_file_runs_alone(setup, tmp_path):
    _, _, image_paths, files = setup
    shutil.copy(runtime.__file__, tmp_path / 'run_me.py')
    shutil.copy(files['open'], tmp_path / 'm.onnx')
    cv2.imwrite(str(tmp_path / 'grün.png'), cv2.imread(str(image_paths[0])))
    code = ALONE.format(refused=REFUSED, argv=['run_me.py', 'm.onnx', 'grün.png', '--score-thr', '0.3'])
    command = [sys.executable, '-P', '-c', code] if sys.version_info >= (3, 11) else [sys.executable, '-c', code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, *rows, refused = done.stdout.splitlines()
    (found,) = runtime.ExportedDetector(files['open'])([image_paths[0]], score_thr=0.3)
    assert first == f'grün.png: {len(found.scores)} boxes' and len(rows) == len(found.scores) > 0
    assert rows[0].split()[0] == ('red', 'blue')[found.labels[0]] and refused == '[]'
    np.testing.assert_allclose([float(side) for side in rows[0].split()[2:]], found.boxes_xyxy[0], atol=0.06)


def test_it_imports_nothing_else():
    tree = ast.parse(Path(runtime.__file__).read_text(encoding='utf-8'))
    named = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    named |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split('.')[0] for name in named} - set(sys.stdlib_module_names) == {'cv2', 'numpy'}
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)]
    needs = {call.args[0].value for call in calls if call.func.id == 'need'}
    assert needs == {'onnxruntime', 'openvino', 'ncnn', 'executorch.runtime', 'torch', 'ai_edge_litert.interpreter'}


def test_what_cannot_be_used_is_named(setup, tmp_path):
    *_, image_paths, files = setup
    with pytest.raises(ValueError, match='onnxruntime cannot read nowhere.onnx'):
        runtime.ExportedDetector('nowhere.onnx')
    (tmp_path / 'text.onnx').write_text('no model')
    with pytest.raises(ValueError, match='onnxruntime cannot read .*text.onnx'):
        runtime.ExportedDetector(tmp_path / 'text.onnx')
    model = onnx.load(str(files['fixed']))
    onnx.helper.set_model_props(model, {'format': '2'})
    onnx.save(model, str(tmp_path / 'later.onnx'))
    with pytest.raises(ValueError, match='later.onnx has metadata of form 2, this runtime.py knows 1'):
        runtime.ExportedDetector(tmp_path / 'later.onnx')
    del model.metadata_props[:]
    onnx.save(model, str(tmp_path / 'foreign.onnx'))
    with pytest.raises(ValueError, match='foreign.onnx has no metadata of mmyolo_ext'):
        runtime.ExportedDetector(tmp_path / 'foreign.onnx')
    with pytest.raises(ValueError, match=r'takes \(64, 64\) only .* got \(96, 64\)'):
        runtime.ExportedDetector(files['fixed'], size_hw=(96, 64))
    with pytest.raises(ValueError, match=r'multiples of 32, got \(100, 64\)'):
        runtime.ExportedDetector(files['open'], size_hw=(100, 64))
    detector = runtime.ExportedDetector(files['open'])
    assert detector([]) == []
    (tmp_path / 'text.jpg').write_text('no image')
    (tmp_path / 'empty.jpg').touch()
    for name in ('text.jpg', 'empty.jpg'):
        with pytest.raises(ValueError, match=f'{name} cannot be decoded'):
            detector([tmp_path / name])
    with pytest.raises(ValueError, match='there is no image none.jpg'):
        detector(['none.jpg'])
    with pytest.raises(ValueError, match=r'got \(4, 4\) uint8'):
        detector([np.zeros((4, 4), np.uint8)])


def test_a_missing_onnxruntime_is_named(setup, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    with pytest.raises(ValueError, match='needs the package onnxruntime: pip install onnxruntime'):
        runtime.ExportedDetector(setup[3]['open'])


def test_classes_other_than_those_of_the_data(setup):
    detector = runtime.ExportedDetector(setup[3]['open'])
    detector.names = ('red', 'green')
    with pytest.raises(ValueError, match="file has the classes .*'green'.*, the data .*'blue'"):
        evaluate_exported(detector, load_config(setup[0].filename))


def test_metadata_is_json(setup):
    properties = {prop.key: json.loads(prop.value) for prop in onnx.load(str(setup[3]['nms'])).metadata_props}
    assert properties['names'] == ['red', 'blue'] and properties['nms_in_graph'] is True
    assert properties['dynamic'] is False and properties['size_hw'] == [64, 64]
