"""Detectors of mmdet as exported files: the boxes and the AP that mmdet's own code gives.

Weights are seeded and fitted to images of BCCD, so that every level fires; every second detection of PyTorch is the
ground truth, so that the AP is neither 0 nor 1 and depends on every box.
"""

import json
import os
from pathlib import Path

import mmdet
import numpy as np
import pytest
import torch
from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.evaluator import Evaluator
from mmengine.registry import init_default_scope
from mmengine.structures import InstanceData
from tiny_coco import REPO
from torch import nn
from untrained import settle

from mmyolo_ext.apis import Detector, load_config
from mmyolo_ext.apis.exporting import evaluate_exported, export_detector, letterbox_of
from mmyolo_ext.export import dense_heads, parity, runtime
from mmyolo_ext.export.formats import SUFFIXES, Options
from mmyolo_ext.export.graph import raw_graph
from mmyolo_ext.registry import DATASETS, MODELS

pytest.importorskip('onnxruntime')
pytest.importorskip('onnx')

MMDET = Path(mmdet.__file__).parent / '.mim/configs'
CASES = {
    'RetinaNet': 'retinanet/retinanet_r18_fpn_1x_coco.py',
    'FCOS': 'fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py',
    'ATSS': 'atss/atss_r50_fpn_1x_coco.py',
    'GFL': 'gfl/gfl_r50_fpn_1x_coco.py',
    'RTMDet': 'rtmdet/rtmdet_tiny_8xb32-300e_coco.py',
    'YOLOX': 'yolox/yolox_tiny_8xb8-300e_coco.py',
    'TOOD': 'tood/tood_r50_fpn_1x_coco.py',
}
CLASSES = ('RBC', 'WBC', 'Platelets')
SIDE, IMAGES = 160, int(os.environ.get('EXPORT_IMAGES', 4))  # 72 for the figures of docs/guides/export.md


def small_model(config: str) -> Config:
    """The model of a config of mmdet with three classes, of a quarter of the width, and no download."""
    model = Config.fromfile(MMDET / config).model
    model.backbone.init_cfg = None
    model.bbox_head.num_classes = len(CLASSES)
    if model.backbone.type == 'ResNet':
        model.backbone.update(depth=18, base_channels=16)
        model.neck.update(in_channels=[16, 32, 64, 128], out_channels=64)
        model.bbox_head.update(in_channels=64, feat_channels=64)
    return model


def fire(detector: nn.Module, images: torch.Tensor) -> None:
    """Fit batch norms to images, and the last convolutions to outputs that differ among places."""
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean of what is seen
    inside = {module.conv for module in detector.bbox_head.modules() if isinstance(module, ConvModule)}
    last = [
        module for module in detector.bbox_head.modules() if isinstance(module, nn.Conv2d) and module not in inside
    ]
    with torch.no_grad():
        detector.train().bbox_head(detector.extract_feat(images))
        for norm in norms:
            norm.running_var.clamp_(min=float(norm.running_var.mean()))  # rounding is not blown up
        hooks = [module.register_forward_pre_hook(fit_once(set())) for module in last]
        detector.eval().bbox_head(detector.extract_feat(images))
    for hook in hooks:
        hook.remove()


def fit_once(done: set):
    def fit(conv: nn.Conv2d, inputs: tuple) -> None:
        if conv not in done:  # a head may share it among levels
            done.add(conv)
            raw = torch.nn.functional.conv2d(inputs[0], conv.weight, None, conv.stride, conv.padding)
            conv.weight *= 1 / raw.std()
            # classes fire here and there; sides of boxes are positive for most
            nn.init.normal_(conv.bias, 1.0 if conv.out_channels % 4 == 0 else -1.5, 0.3)

    return fit


@pytest.fixture(scope='module', params=CASES)
def case(request, bccd_dir: Path, tmp_path_factory):
    """(name, config, checkpoint): the test pipeline has our letterbox, batches are not rectangles."""
    folder = tmp_path_factory.mktemp(request.param)
    names = (bccd_dir / 'ImageSets/Main/test.txt').read_text().split()[:IMAGES]
    cfg = load_config(REPO / 'configs/yolov5/yolov5_n_320_bccd.py')
    cfg.model = small_model(CASES[request.param])
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    dataset = cfg.test_dataloader.dataset.dataset
    dataset.pipeline[2].update(size_hw=(SIDE, SIDE), centred=False)  # heads of mmdet know no padding at the left
    dataset.update(data_root='', ann_file=str(folder / 'gt.json'), data_prefix={'img': f'{bccd_dir}/JPEGImages/'})
    cfg.test_dataloader.dataset = dataset
    cfg.test_evaluator.update(ann_file=str(folder / 'gt.json'))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    paths = [bccd_dir / 'JPEGImages' / f'{name}.jpg' for name in names]
    fire(detector, torch.stack([network_input(detector, path) for path in paths[:8]]))
    checkpoint = folder / 'weights.pth'
    torch.save({'state_dict': detector.state_dict(), 'meta': {'dataset_meta': {'classes': CLASSES}}}, checkpoint)
    found = [
        clip(found, path)
        for found, path in zip(Detector(cfg, checkpoint, 'cpu', nms_iou=None)(paths, 0.0), paths, strict=True)
    ]
    write_every_second(folder / 'gt.json', paths, found)
    return request.param, cfg, checkpoint, paths, found


def clip(found: tuple, path: Path) -> runtime.Detections:
    """Clip boxes to the image, as the runtime does; heads of mmdet clip to the input, or not at all."""
    boxes, scores, labels = found[:3]
    return runtime.Detections(boxes.clip(0, np.float32(runtime.read_image(path).shape[1::-1] * 2)), scores, labels)


def network_input(detector: nn.Module, path: Path) -> torch.Tensor:
    letterbox = {'pad_val': 114, 'centred': False, 'allow_upscale': True, 'interpolation': 'bilinear'}
    canvas, _, _ = runtime.letterbox(runtime.read_image(path), (SIDE, SIDE), (SIDE, SIDE), letterbox)
    data = {'inputs': [torch.from_numpy(canvas.astype(np.uint8)).permute(2, 0, 1)], 'data_samples': None}
    return detector.data_preprocessor(data)['inputs'][0]


def write_every_second(file: Path, paths: list[Path], found: list) -> None:
    """Write every second detection, moved by 2 px, as ground truth."""
    images, annotations = [], []
    for number, (path, (boxes, _, labels)) in enumerate(zip(paths, found, strict=True)):
        height, width = runtime.read_image(path).shape[:2]
        images.append({'id': number, 'file_name': path.name, 'height': height, 'width': width})
        for (left, top, right, bottom), label in zip(boxes[::2].tolist(), labels[::2].tolist(), strict=True):
            if (
                right - left > 4
                and bottom - top > 4
                and left >= 0
                and top >= 0
                and right <= width
                and bottom <= height
            ):
                box = [left, top, right - left - 2, bottom - top - 2]
                one = {'id': len(annotations) + 1, 'image_id': number, 'category_id': label, 'iscrowd': 0}
                annotations.append({**one, 'bbox': box, 'area': box[2] * box[3]})
    categories = [{'id': label, 'name': name} for label, name in enumerate(CLASSES)]
    file.write_text(json.dumps({'images': images, 'annotations': annotations, 'categories': categories}))


def test_boxes_and_ap_of_mmdet(case, tmp_path: Path) -> None:
    name, cfg, checkpoint, paths, found = case
    # by the export's own check the file equals PyTorch, and the graph the head's own predictions
    options = Options(nms=name != 'FCOS', dynamic=True)
    done = export_detector(cfg, str(checkpoint), tmp_path / 'model.onnx', options, None, paths[0])
    assert done.difference.alone == 0 and done.difference.boxes_px < 0.1 and done.difference.scores < 1e-4
    exported = runtime.ExportedDetector(done.files[0], threads=1)
    assert exported.rules['nms_in_graph'] == options.nms and exported.names == CLASSES
    rules = {'score_thr': 0.0, 'max_per_img': exported.rules['max_per_img']}
    for ours, theirs in zip(exported(paths, score_thr=0.0), found, strict=True):
        difference = parity.compare_detections(theirs, ours, rules, parity.Bound(0.1, 1e-4))
        assert len(ours.scores) > 50 and len(set(ours.labels.tolist())) > 1 and difference.within(parity.EXACT)
    got, wanted = evaluate_exported(exported, cfg.copy()), metrics_of(cfg, found)
    for key in ('coco/bbox_mAP', 'coco/bbox_mAP_50', 'coco/bbox_mAP_75'):
        assert got[key] == pytest.approx(wanted[key], abs=0.001), key
    assert 0.03 < got['coco/bbox_mAP'] < 0.9


@pytest.mark.parametrize(
    ('name', 'kind'),
    [
        ('rtmdet_tiny_320_bccd', 'onnx'),
        ('yolox_tiny_320_bccd', 'onnx'),
        ('yolov5_rtmdet-tiny_640_coco', 'onnx'),
        ('rtmdet_tiny_320_bccd', 'openvino'),
        ('yolox_tiny_320_bccd', 'openvino'),
        ('yolov5_rtmdet-tiny_320_bccd', 'openvino'),
    ],
)
def test_ready_configs(name: str, kind: str, bccd_dir: Path, tmp_path: Path) -> None:
    """Bodies and heads of mmdet under our data and recipe, at full width: the file has the boxes of PyTorch's NMS."""
    pytest.importorskip(kind)
    cfg, side = load_config(REPO / f'configs/yolov5_rtmdet/{name}.py'), int(name.split('_')[-2])
    init_default_scope('mmdet')
    torch.manual_seed(0)
    detector = MODELS.build(cfg.model)
    paths = sorted((bccd_dir / 'JPEGImages').glob('*.jpg'))[:2]
    images = torch.stack([network_input(detector, path) for path in paths])
    settle(detector, images.numpy()) if name.startswith('yolov5') else fire(detector, images)
    torch.save({'state_dict': detector.state_dict(), 'meta': {}}, tmp_path / 'weights.pth')
    file = tmp_path / f'model{SUFFIXES[kind]}'
    export_detector(cfg, str(tmp_path / 'weights.pth'), file, Options(kind, nms=True), None, paths[0])
    exported = runtime.ExportedDetector(file, threads=1)
    assert exported.rules['size_hw'] == [side, side]
    assert exported.rules['letterbox']['centred'] == name.startswith('yolov5')
    rules, bound = {**exported.rules, 'score_thr': 0.0}, parity.Bound(0.2, 1e-4)  # px of the image, twice the input
    detector = Detector(cfg, tmp_path / 'weights.pth', 'cpu', nms_iou=None)
    for path in paths:
        (ours,), theirs = exported([path], score_thr=0.0), clip(detector(path, 0.0), path)
        difference = parity.compare_detections(theirs, ours, rules, bound)
        assert len(ours.scores) > 100 and difference.within(bound), str(difference)


def metrics_of(cfg: Config, found: list) -> dict[str, float]:
    """Return the metrics of detections."""
    dataset = DATASETS.build(cfg.test_dataloader.dataset)
    evaluator = Evaluator(cfg.test_evaluator)
    evaluator.dataset_meta = dataset.metainfo
    for index, fields in enumerate(found):
        info = dataset.get_data_info(index)
        boxes, scores, labels = (torch.from_numpy(field) for field in fields)
        predicted = InstanceData(bboxes=boxes, scores=scores, labels=labels)
        sample = {'img_id': info['img_id'], 'ori_shape': (info['height'], info['width']), 'pred_instances': predicted}
        evaluator.process(data_samples=[sample], data_batch=None)
    return evaluator.evaluate(len(dataset))


@pytest.mark.parametrize(
    ('name', 'pad_val', 'size_hw'),
    [
        # 1333 x 800, rounded up to multiples of 32; the mean pixel in BGR normalises to 0
        ('RetinaNet', [103.53, 116.28, 123.675], (800, 1344)),
        ('FCOS', [102.9801, 115.9465, 122.7717], (800, 1344)),
        ('RTMDet', 114, (640, 640)),
        ('YOLOX', 114, (416, 416)),
    ],
)
def test_pipelines_of_mmdet_are_letterboxes(name: str, pad_val, size_hw: tuple) -> None:
    init_default_scope('mmdet')
    letterbox, got_hw = letterbox_of(Config.fromfile(MMDET / CASES[name]))
    assert letterbox == {
        'pad_val': pad_val,
        'centred': False,
        'allow_upscale': True,
        'interpolation': 'bilinear',
    } and (got_hw == size_hw)
    canvas, _, _ = runtime.letterbox(np.zeros((8, 4, 3), np.uint8), (16, 16), (16, 16), letterbox)
    np.testing.assert_allclose(canvas[0, -1], np.full(3, pad_val), rtol=1e-6)


def test_sampling_between_cells() -> None:
    """By hand: half a cell to the right of (0, 0) lies (1 + 2) / 2, half a row above 2 half of it."""
    feat = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]])
    offset = torch.zeros(1, 2, 2, 2)
    offset[0, 1, 0, 0], offset[0, 0, 0, 1], offset[0, 0, 1, 1] = 0.5, -0.5, 1.0
    assert dense_heads.sample(feat, offset).tolist() == [[[[1.5, 1.0], [3.0, 0.0]]]]


def test_a_head_of_another_kind_is_refused(monkeypatch) -> None:
    model = small_model(CASES['ATSS'])
    init_default_scope('mmdet')
    detector = MODELS.build(model)
    monkeypatch.setattr(type(detector.bbox_head), '_bbox_post_process', lambda *args, **kwargs: None)
    with pytest.raises(ValueError, match=r'dense head of mmdet \(RetinaNet, .*TOOD\), got ATSS with ATSSHead'):
        raw_graph(detector)
