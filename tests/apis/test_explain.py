"""Heat maps against slow formulas, and on a YOLOv5 and a detector of mmdet."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope

from mmyolo_ext.apis.explain import eigen_cam, explain, grad_cam, layer_cam
from mmyolo_ext.apis.training import read_run_config
from mmyolo_ext.cli.explain import main
from mmyolo_ext.registry import MODELS
from tests.tiny_coco import REPO, make_tiny_coco, write_user_config


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """Config and checkpoint of random weights, and an image."""
    folder = tmp_path_factory.mktemp('explain')
    data = make_tiny_coco(folder / 'data')
    config = write_user_config(folder / 'mine.py', data)
    torch.manual_seed(0)
    model = MODELS.build(read_run_config(config, None, 'auto', {}).model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, folder / 'a.pth')
    return config, folder / 'a.pth', data / 'val' / '000.png'


def test_maps_are_those_of_loops():
    rng = np.random.default_rng(0)
    features, gradients = rng.normal(size=(2, 3, 4, 5)).astype(np.float32)
    grad, layer = np.zeros((4, 5)), np.zeros((4, 5))
    for y in range(4):
        for x in range(5):
            for channel in range(3):
                value = features[channel, y, x]
                grad[y, x] += gradients[channel].mean() * value
                layer[y, x] += max(gradients[channel, y, x], 0) * value
    values = torch.from_numpy(features), torch.from_numpy(gradients)
    assert np.allclose(grad_cam(*values), grad.clip(0), atol=1e-6)
    assert np.allclose(layer_cam(*values), layer.clip(0), atol=1e-6)
    rows = features.reshape(3, -1).T
    left, singular, _ = np.linalg.svd(rows, full_matrices=False)
    assert np.allclose(eigen_cam(values[0]), np.abs(left[:, 0] * singular[0]).reshape(4, 5), atol=1e-5)


def test_after_the_neck_a_yolo_detection_depends_on_one_cell_of_one_level(trained):
    config, checkpoint, image = trained
    seen = explain(checkpoint, image, config, 'gradcam', 'neck', 0.0, 3, 'cpu')
    assert seen.maps.shape == (3, 3, 64, 64) and seen.strides == (8, 16, 32)
    # the head is a 1x1 convolution per level
    assert ((seen.shares > 0).sum(1) <= 1).all() and seen.shares.any()
    before = explain(checkpoint, image, config, 'layercam', 'backbone', 0.0, 3, 'cpu')
    assert np.allclose(before.shares.sum(1), 1) and ((before.shares > 0).sum(1) > 1).any()
    assert before.maps.max() == 1 and before.maps.min() == 0
    assert (before.detections.scores == seen.detections.scores).all()
    assert before.draw().shape == (3 * 64, 3 * 64, 3)


def test_a_detector_of_mmdet(trained, tmp_path):
    config = REPO / 'configs/yolov5_rtmdet/rtmdet_tiny_320_bccd.py'
    model = MODELS.build(read_run_config(config, None, None, {}, training=False).model)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'a.pth')
    seen = explain(tmp_path / 'a.pth', trained[2], config, score_thr=0.0, max_detections=2, device='cpu')
    assert seen.maps.shape == (2, 3, 320, 320) and np.allclose(seen.shares.sum(1), 1)


def test_a_two_stage_detector_by_the_config_in_its_checkpoint(trained, tmp_path):
    small = {'backbone.depth': 18, 'backbone.init_cfg': None, 'roi_head.bbox_head.fc_out_channels': 8}
    small['test_cfg.rcnn.score_thr'] = 0.0  # random scores of 80 classes are about 1 / 81
    small = {f'model.{key}': value for key, value in small.items()}
    small['model.neck.in_channels'] = [64, 128, 256, 512]
    cfg = read_run_config('mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py', None, None, small, training=False)
    cfg.test_dataloader.dataset.pipeline[1].scale = (96, 96)
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    torch.save({'state_dict': model.state_dict(), 'meta': {'cfg': cfg.pretty_text}}, tmp_path / 'a.pth')
    seen = explain(tmp_path / 'a.pth', trained[2], score_thr=0.0, max_detections=2, device='cpu')
    assert seen.maps.shape == (2, 4, 96, 96) and np.allclose(seen.shares.sum(1), 1)


def test_the_command_and_its_errors(trained, tmp_path, capsys):
    config, checkpoint, image = trained
    words = [str(checkpoint), str(image), '--config', str(config), '--device', 'cpu']
    main([*words, '--out', str(tmp_path / 'a.png'), '--score-thr', '0', '--max', '2'])
    assert cv2.imread(str(tmp_path / 'a.png')).shape == (2 * 64, 3 * 64, 3)
    assert capsys.readouterr().out.count('stride 8: ') == 2
    main([*words, '--out', str(tmp_path / 'b.png'), '--method', 'eigencam', '--score-thr', '1'])
    assert cv2.imread(str(tmp_path / 'b.png')).shape == (64, 3 * 64, 3)
    content = torch.load(checkpoint, weights_only=True)
    content['state_dict']['bbox_head.convs_pred.0.bias'].fill_(100)
    torch.save(content, tmp_path / 'full.pth')  # scores of 1, whose gradient is 0
    main([str(tmp_path / 'full.pth'), *words[1:], '--out', str(tmp_path / 'c.png'), '--max', '1'])
    assert ' 1.00: no map, since no feature raises this score: choose --method eigencam' in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main([*words, '--score-thr', '1'])
    assert 'lower score_thr' in capsys.readouterr().err
    with pytest.raises(ValueError, match='method must be one of layercam, gradcam, eigencam'):
        explain(checkpoint, image, config, 'cam')
