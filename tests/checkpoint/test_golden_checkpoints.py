"""Converted checkpoints of the original implementations give the outputs of the originals."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor
from yolov5_networks import build

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.checkpoint.conversion import convert
from mmyolo_ext.checkpoint.matching import LoadReport
from mmyolo_ext.checkpoint.safe_load import read_checkpoint
from mmyolo_ext.checkpoint.ultralytics import model_yaml, to_ultralytics
from mmyolo_ext.datasets.transforms import Letterbox

RAW, PIXELS = 1e-3, 0.01


@pytest.fixture(params=['v7_yolov5n', 'v5_yolov5s_w025'], scope='module')
def case(request: pytest.FixtureRequest, golden_dir: Path) -> tuple:
    name = request.param
    content = read_checkpoint(golden_dir / f'{name}.pt')
    return name, content, convert(content), np.load(golden_dir / f'{name}.npz')


def test_outputs_of_ultralytics_checkpoints(case: tuple, tmp_path: Path) -> None:
    _, _, converted, expected = case
    detector = build(converted.network, tmp_path)
    assert LoadReport.of(detector.state_dict(), converted.state_dict).complete
    detector.load_state_dict(converted.state_dict)
    with torch.no_grad():
        (pred_maps,) = detector(golden_input(expected))
        decoded = detector.bbox_head.decode(pred_maps)
    for level, pred_map in enumerate(pred_maps):
        # (N, A*(5+C), H, W) -> (N, A, H, W, 5+C)
        raw = pred_map.unflatten(1, (3, -1)).permute(0, 1, 3, 4, 2)
        torch.testing.assert_close(raw, torch.from_numpy(expected[f'raw{level}']), atol=RAW, rtol=0)
    golden = torch.from_numpy(expected['decoded'])
    torch.testing.assert_close(decoded.boxes_xyxy, cxcywh_to_xyxy(golden[..., :4]), atol=PIXELS, rtol=0)
    torch.testing.assert_close(decoded.objectness, golden[..., 4], atol=1e-5, rtol=0)
    torch.testing.assert_close(decoded.class_scores, golden[..., 5:], atol=1e-5, rtol=0)


def test_network_of_ultralytics_checkpoints(case: tuple) -> None:
    name, content, converted, expected = case
    network = converted.network
    assert network.version == name[:2].replace('v7', 'v6')
    assert (network.arch, network.deepen_factor, network.widen_factor) == ('P5', 0.33, 0.25)
    assert network.classes == ('c0', 'c1', 'c2', 'c3') and network.num_classes == 4
    assert np.array_equal(network.anchors, expected['anchors_px'].reshape(3, 3, 2))
    assert converted.left_out[0] == 'model.24.anchors'


def test_the_yaml_is_the_file_s_own(case: tuple) -> None:
    """The layers that we derive are those that the pickled model was built from."""
    yaml = pytest.importorskip('yaml')
    _, content, converted, _ = case
    original = content['model'].get('yaml')
    written = yaml.safe_load(model_yaml(converted.network))
    keys = ('nc', 'depth_multiple', 'width_multiple', 'anchors', 'backbone', 'head')
    assert {key: written[key] for key in keys} == {key: original[key] for key in keys}
    assert written['names'] == {0: 'c0', 1: 'c1', 2: 'c2', 3: 'c3'}


def test_back_to_every_tensor_of_the_file(case: tuple) -> None:
    _, content, converted, _ = case
    given = to_ultralytics(converted.state_dict, converted.network)
    wanted = dict(tensors_of(content['model'], ''))
    assert sorted(given) == sorted(wanted)
    for name, tensor in wanted.items():
        assert torch.equal(given[name], tensor.to(given[name])), name


def test_outputs_of_mmyolo_checkpoints(golden_dir: Path, tmp_path: Path) -> None:
    expected = np.load(golden_dir / 'mmyolo_yolov5n.npz')
    converted = convert(read_checkpoint(golden_dir / 'mmyolo_yolov5n.pth'))
    detector = build(converted.network, tmp_path)
    assert LoadReport.of(detector.state_dict(), converted.state_dict).complete
    assert (converted.source, converted.has_anchors, converted.network.num_classes) == ('mmyolo', False, 4)
    detector.load_state_dict(converted.state_dict)
    with torch.no_grad():
        (pred_maps,) = detector(golden_input(expected))
    for level, pred_map in enumerate(pred_maps):
        by_anchor = pred_map.unflatten(1, (3, -1))
        for part, channels in (('cls', slice(5, None)), ('box', slice(0, 4)), ('obj', slice(4, 5))):
            wanted = torch.from_numpy(expected[f'{part}{level}'])
            torch.testing.assert_close(by_anchor[:, :, channels].flatten(1, 2), wanted, atol=RAW, rtol=0)


def test_detections_of_the_trained_checkpoint(golden_dir: Path, bccd_dir: Path, tmp_path: Path) -> None:
    """Real images, in the letterbox of the original's validation: half the size, in the middle of 256 x 352."""
    converted = convert(read_checkpoint(golden_dir / 'yolov5n_bccd.pt'))
    network = converted.network
    assert (network.classes, network.input_size) == (('RBC', 'WBC', 'Platelets'), 320)
    detector = build(network, tmp_path)
    detector.load_state_dict(converted.state_dict)
    letterbox = Letterbox(320, centred=True, allow_upscale=False, interpolation='area')
    detections = json.loads((golden_dir / 'yolov5n_bccd.json').read_text())['detections_over_0_25']
    for name, wanted in detections.items():
        image = cv2.imread(str(bccd_dir / 'JPEGImages' / name))
        shape = {'ori_shape': image.shape[:2], 'batch_shape_hw': (256, 352)}
        meta = letterbox({'img': image, 'img_shape': image.shape[:2], **shape})
        assert meta['pad_param'] == (8, 8, 16, 16)
        # (H, W, 3) BGR -> (1, 3, H, W) RGB from 0 to 1
        images = torch.from_numpy(meta['img'][..., ::-1].copy()).permute(2, 0, 1)[None] / 255
        with torch.no_grad():
            (found,) = detector.bbox_head.predict_by_feat(*detector(images), [meta], rescale=True)
        found = found[found.scores > 0.25]
        boxes_xywh = torch.tensor([box['bbox_xywh'] for box in wanted])
        boxes_xyxy = torch.cat([boxes_xywh[:, :2], boxes_xywh[:, :2] + boxes_xywh[:, 2:]], dim=1)
        torch.testing.assert_close(found.bboxes, boxes_xyxy, atol=PIXELS, rtol=0)
        torch.testing.assert_close(found.scores, torch.tensor([box['score'] for box in wanted]), atol=1e-4, rtol=0)
        assert found.labels.tolist() == [box['label'] for box in wanted]


def golden_input(expected: np.lib.npyio.NpzFile) -> Tensor:
    rng = np.random.RandomState(int(expected['input_seed']))
    return torch.from_numpy(rng.rand(2, 3, 64, 96).astype(np.float32))


def tensors_of(module: object, prefix: str):
    for kind in ('_parameters', '_buffers'):
        yield from ((prefix + name, value) for name, value in module.get(kind).items() if value is not None)
    for name, child in module.get('_modules').items():
        yield from tensors_of(child, f'{prefix}{name}.')
