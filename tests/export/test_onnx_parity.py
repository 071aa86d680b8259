"""ONNX and TorchScript give the boxes and scores of PyTorch, whatever the network, the batch and the size."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from untrained import LETTERBOX, build, random_images

from mmyolo_ext.apis import Detector
from mmyolo_ext.export import parity, runtime
from mmyolo_ext.export.formats import SUFFIXES, Options, describe, open_exported, write
from mmyolo_ext.export.graph import RawGraph, build_graph

pytest.importorskip('onnxruntime')
onnx = pytest.importorskip('onnx')

# what test_real_images.py does not export, and one network with a softmax and one with P6 for their metadata
CASES = {
    'shufflenetv2-softmax': ('light/yolov5_shufflenetv2-0.5_320_bccd.py', True, {}),
    'focus-one-class': ('light/yolov5_shufflenetv2-0.5-focus_320_bccd.py', False, {'bbox_head__num_classes': 1}),
    'p6': ('yolov5/yolov5_n6_1280_coco.py', False, {'backbone__widen_factor': 0.125, 'neck__widen_factor': 0.125}),
    'yolov3-tiny': ('yolov3/yolov3_tiny_320_bccd.py', False, {}),
}


@pytest.fixture(scope='module', params=CASES)
def exported(request, tmp_path_factory):
    """(detector, ONNX file) with open sizes, raw."""
    config, softmax, options = CASES[request.param]
    detector = build(config, softmax, **options)
    file = tmp_path_factory.mktemp('onnx') / 'model.onnx'
    names = tuple(f'class {label}' for label in range(detector.bbox_head.num_classes))
    write(detector, file, Options(dynamic=True), names, LETTERBOX, (128, 192))
    return detector, file


def torch_outputs(detector: nn.Module, images: np.ndarray) -> list[np.ndarray]:
    """Return boxes and scores, computed by the parts of the detector."""
    head = detector.bbox_head
    with torch.no_grad():
        boxes, objectness, classes = head.decode(*head(detector.extract_feat(torch.from_numpy(images))))
    return [boxes.numpy(), (objectness[..., None] * classes).numpy()]


def test_any_batch_and_size_gives_pytorchs_boxes(exported):
    detector, file = exported
    run, rules = open_exported(file, 'onnx')
    for images in (random_images(1, 128, 192), random_images(2, 192, 128)):
        boxes, scores = torch_outputs(detector, images)
        got = run(images)
        predictions = sum(3 * (images.shape[2] // s) * (images.shape[3] // s) for s in detector.bbox_head.strides)
        assert got['boxes'].shape == (len(images), predictions, 4) == boxes.shape
        assert got['scores'].shape == (len(images), predictions, detector.bbox_head.num_classes)
        np.testing.assert_allclose(got['boxes'], boxes, rtol=0, atol=0.1)
        np.testing.assert_allclose(got['scores'], scores, rtol=0, atol=1e-4)
        # the compared values differ
        assert scores.std() > 0.01 and scores.max() > 0.3 and np.ptp(boxes[..., 0]) > 100
    assert rules['activation'] == ('sigmoid' if detector.bbox_head.use_sigmoid else 'softmax')
    # OpenVINO converts no sequences
    assert not [node.op_type for node in onnx.load(str(file)).graph.node if 'Sequence' in node.op_type]


def test_the_metadata_has_all_a_runtime_needs(exported):
    detector, file = exported
    _, rules = open_exported(file, 'onnx')
    classes, sigmoid = detector.bbox_head.num_classes, detector.bbox_head.use_sigmoid
    assert rules == {
        'format': 1,
        'names': [f'class {label}' for label in range(classes)],
        'size_hw': [128, 192],
        'strides': list(detector.bbox_head.strides),
        'dynamic': True,
        'precision': 'float32',
        'letterbox': LETTERBOX,
        'channels': 'RGB',
        'mean': [0.0, 0.0, 0.0],
        'std': [255.0, 255.0, 255.0],
        'activation': 'sigmoid' if sigmoid else 'softmax',
        'multi_label': sigmoid and classes > 1,
        'nms_in_graph': False,
        'score_thr': 0.001,
        'nms_pre': 30000,
        'nms_iou': 0.65,
        'class_agnostic': False,
        'max_per_img': 300,
    }


@pytest.fixture(scope='module')
def small():
    """YOLOv5 of an eighth of the width."""
    return build('yolov5/yolov5_n_320_bccd.py', backbone__widen_factor=0.125, neck__widen_factor=0.125)


@pytest.mark.parametrize('softmax', [False, True])
def test_suppression_in_the_graph_is_that_of_numpy(softmax, tmp_path):
    detector = build('yolov5/yolov5_n_320_bccd.py', softmax, backbone__widen_factor=0.125, neck__widen_factor=0.125)
    detector.bbox_head.test_cfg['max_per_img'] = 40
    write(detector, tmp_path / 'nms.onnx', Options(nms=True, dynamic=True), ('a', 'b', 'c'), LETTERBOX, (64, 96))
    run, rules = open_exported(tmp_path / 'nms.onnx', 'onnx')
    assert rules['nms_in_graph'] and rules['multi_label'] != softmax
    for images in (random_images(1, 64, 96), random_images(2, 96, 64)):
        boxes, scores = torch_outputs(detector, images)
        got = run(images)
        assert got['boxes'].shape == (len(images), 40, 4) and got['labels'].dtype == np.int64
        for index in range(len(images)):
            wanted = runtime.suppress(*runtime.candidates(boxes[index], scores[index], rules, 0.0), rules)
            found = runtime.finish(got, index, rules, 0.0)
            assert len(found.scores) == 40 and len(set(found.labels.tolist())) > 1
            assert found.labels.tolist() == wanted.labels.tolist()
            np.testing.assert_allclose(found.boxes_xyxy, wanted.boxes_xyxy, rtol=0, atol=0.1)
            np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-4)


def test_torchscript_gives_pytorchs_boxes(small, tmp_path):
    write(small, tmp_path / 'a.torchscript', Options('torchscript'), ('a', 'b', 'c'), LETTERBOX, (64, 64))
    run, rules = open_exported(tmp_path / 'a.torchscript', 'torchscript')
    assert rules['dynamic'] and rules['names'] == ['a', 'b', 'c']
    for images in (random_images(1, 64, 64), random_images(2, 96, 64)):
        boxes, scores = torch_outputs(small, images)
        got = run(images)
        np.testing.assert_allclose(got['boxes'], boxes, rtol=0, atol=1e-3)
        np.testing.assert_allclose(got['scores'], scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize('options', [Options(dynamic=True), Options(nms=True), Options(half=True)])
def test_openvino_gives_pytorchs_boxes(small, tmp_path, options):
    pytest.importorskip('openvino')
    options = options._replace(format='openvino')
    write(small, tmp_path / 'a.xml', options, ('a', 'b', 'c'), LETTERBOX, (64, 96))
    run, rules = open_exported(tmp_path / 'a.xml', 'openvino')
    assert rules['nms_in_graph'] == options.nms and rules['dynamic'] == options.dynamic
    sizes = ((1, 64, 96), (2, 96, 64)) if options.dynamic else ((1, 64, 96),)
    bound = parity.HALF if options.half else parity.EXACT
    found = parity.check(RawGraph(small), run, [random_images(*size) for size in sizes], rules, bound)
    assert found.within(bound), str(found)


@pytest.mark.parametrize('half', [False, True])
def test_ncnn_gives_pytorchs_boxes(small, tmp_path, half):
    pytest.importorskip('ncnn')
    pytest.importorskip('pnnx')
    file = tmp_path / 'a.param'
    write(small, file, Options('ncnn', half=half), ('a', 'b', 'c'), LETTERBOX, (64, 96))
    assert sorted(part.name for part in tmp_path.iterdir()) == ['a.bin', 'a.param', 'a.param.json']
    run, rules = open_exported(file, 'ncnn')
    assert rules['size_hw'] == [64, 96] and not rules['dynamic']
    bound = parity.HALF if half else parity.EXACT
    found = parity.check(RawGraph(small), run, [random_images(1, 64, 96)], rules, bound)
    assert found.within(bound) and (found.boxes_px > 0.01) == half, str(found)
    if not half:
        image = np.random.default_rng(0).integers(0, 256, (48, 90, 3), np.uint8)
        write(small, tmp_path / 'a.onnx', Options(), ('a', 'b', 'c'), LETTERBOX, (64, 96))
        of_ncnn, of_onnx = (Detector(tmp_path / name)(image) for name in ('a.param', 'a.onnx'))
        assert len(of_ncnn.scores) > 5 and of_ncnn.labels.tolist() == of_onnx.labels.tolist()
        np.testing.assert_allclose(of_ncnn.boxes_xyxy, of_onnx.boxes_xyxy, rtol=0, atol=0.1)
    (tmp_path / 'a.bin').unlink()
    with pytest.raises(ValueError, match=r'there is no .*a\.bin: this export has the files'):
        Detector(file)


@pytest.mark.parametrize(
    ('kind', 'package', 'name'), [('executorch', 'executorch', 'ExecuTorch'), ('litert', 'litert_torch', 'LiteRT')]
)
def test_files_for_phones_give_pytorchs_boxes(small, tmp_path, kind, package, name):
    pytest.importorskip(package)
    file = tmp_path / f'a{SUFFIXES[kind]}'
    write(small, file, Options(kind, fused=True), ('a', 'b', 'c'), LETTERBOX, (64, 96))
    assert sorted(part.name for part in tmp_path.iterdir()) == [file.name, f'{file.name}.json']
    run, rules = open_exported(file, kind)
    assert rules['size_hw'] == [64, 96] and not rules['dynamic']
    found = parity.check(RawGraph(small), run, [random_images(1, 64, 96)], rules, parity.EXACT)
    assert found.within(parity.EXACT), str(found)
    image = np.random.default_rng(0).integers(0, 256, (48, 90, 3), np.uint8)
    write(small, tmp_path / 'a.onnx', Options(), ('a', 'b', 'c'), LETTERBOX, (64, 96))
    exported, of_onnx = (Detector(path)(image) for path in (file, tmp_path / 'a.onnx'))
    assert len(exported.scores) > 5 and exported.labels.tolist() == of_onnx.labels.tolist()
    np.testing.assert_allclose(exported.boxes_xyxy, of_onnx.boxes_xyxy, rtol=0, atol=0.1)
    file.write_bytes(b'no program')
    with pytest.raises(ValueError, match=rf'{name} cannot read .*{file.name}'):
        Detector(file)
    Path(f'{file}.json').unlink()
    with pytest.raises(ValueError, match=rf'there is no .*{file.name}\.json: this export has the files'):
        Detector(file)


def test_a_fixed_size_fused_graph(small, tmp_path):
    write(small, tmp_path / 'a.onnx', Options(fused=True), ('a', 'b', 'c'), LETTERBOX, (64, 96))
    run, _ = open_exported(tmp_path / 'a.onnx', 'onnx')
    boxes, scores = torch_outputs(small, random_images(1, 64, 96))
    got = run(random_images(1, 64, 96))
    np.testing.assert_allclose(got['boxes'], boxes, rtol=0, atol=0.1)
    np.testing.assert_allclose(got['scores'], scores, rtol=0, atol=1e-4)
    kinds = [type(module) for module in build_graph(small, fused=True).modules()]
    assert nn.BatchNorm2d not in kinds and nn.BatchNorm2d in [type(module) for module in small.modules()]


def test_half_precision_keeps_input_and_output_in_float32(small, tmp_path):
    sizes = {}
    for half in (False, True):
        write(small, tmp_path / 'a.onnx', Options(half=half), ('a', 'b', 'c'), LETTERBOX, (64, 96))
        sizes[half] = (tmp_path / 'a.onnx').stat().st_size
    run, rules = open_exported(tmp_path / 'a.onnx', 'onnx')
    got = run(random_images(1, 64, 96))
    boxes, scores = torch_outputs(small, random_images(1, 64, 96))
    assert rules['precision'] == 'float16' and sizes[True] < 0.65 * sizes[False]
    assert got['boxes'].dtype == got['scores'].dtype == np.float32
    # of values between 1/2 and 1 float16 keeps steps of 2^-11; boxes are up to 4 times anchors of 373 px
    assert 1e-6 < np.abs(got['scores'] - scores).max() < 0.02
    assert np.abs(got['boxes'] - boxes).max() < 4
    assert small.bbox_head.anchors_wh.dtype == torch.float32 == next(small.parameters()).dtype


def test_an_imagenet_normalisation_is_in_the_metadata():
    detector = build(
        'yolov5/yolov5_n_320_bccd.py',
        backbone__widen_factor=0.125,
        neck__widen_factor=0.125,
        data_preprocessor__mean=[123.675, 116.28, 103.53],
        data_preprocessor__std=[58.395, 57.12, 57.375],
        data_preprocessor__bgr_to_rgb=False,
    )
    rules = {key: json.loads(value) for key, value in describe(detector, 'abc', LETTERBOX, (64, 64)).items()}
    assert rules['channels'] == 'BGR' and rules['names'] == ['a', 'b', 'c']
    # the runtime's own arithmetic against the preprocessor's
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    data = {'inputs': [torch.from_numpy(image).permute(2, 0, 1)], 'data_samples': None}
    wanted = detector.data_preprocessor(data)['inputs'].numpy()
    np.testing.assert_array_equal(runtime.normalise([image], rules), wanted)


def test_what_cannot_be_exported_says_why(small, tmp_path):
    file, names = tmp_path / 'a.onnx', ('a', 'b', 'c')
    with pytest.raises(ValueError, match=r'multiples of 32, got \(64, 100\)'):
        write(small, file, Options(), names, LETTERBOX, (64, 100))
    with pytest.raises(ValueError, match='3 classes, got 2 names'):
        write(small, file, Options(), names[:2], LETTERBOX, (64, 64))
    with pytest.raises(ValueError, match='must have one stage and a head of mmyolo_ext.*got Conv2d with NoneType'):
        RawGraph(nn.Conv2d(3, 3, 1))
    with pytest.raises(ValueError, match='torchscript has no NMS operator'):
        write(small, file, Options('torchscript', nms=True), names, LETTERBOX, (64, 64))
    with pytest.raises(ValueError, match='ncnn has no NMS operator'):
        write(small, file, Options('ncnn', nms=True), names, LETTERBOX, (64, 64))
    for kind in ('ncnn', 'executorch', 'litert'):
        with pytest.raises(ValueError, match=f'--dynamic is not for {kind}'):
            write(small, file, Options(kind, dynamic=True), names, LETTERBOX, (64, 64))
    for kind in ('executorch', 'litert'):
        with pytest.raises(ValueError, match=f'--half is not for {kind}'):
            write(small, file, Options(kind, half=True), names, LETTERBOX, (64, 64))


def test_another_suppression_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setattr(small.bbox_head, 'test_cfg', {**small.bbox_head.test_cfg, 'nms': {'type': 'soft_nms'}})
    with pytest.raises(ValueError, match="must be dict.type='nms', .* got {'type': 'soft_nms'}"):
        write(small, tmp_path / 'a.onnx', Options(), ('a', 'b', 'c'), LETTERBOX, (64, 64))


@pytest.mark.parametrize(
    ('kind', 'package'),
    [
        *[('openvino', 'openvino'), ('engine', 'tensorrt'), ('ncnn', 'pnnx'), ('executorch', 'executorch.exir')],
        ('litert', 'litert_torch'),
    ],
)
def test_a_missing_package_is_named_with_its_cure(small, tmp_path, monkeypatch, kind, package):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setattr('mmyolo_ext.export.formats.export_onnx', lambda *arguments: None)
    with pytest.raises(ValueError, match=f'needs the package {package.partition(".")[0]}: pip install'):
        write(small, tmp_path / f'a.{kind}', Options(kind), ('a', 'b', 'c'), LETTERBOX, (64, 64))
