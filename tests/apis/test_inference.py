"""Predictions from Python: pixels of the image, any input, errors that name the file."""

import cv2
import numpy as np
import pytest
import torch
from mmengine.registry import MODELS, init_default_scope
from tiny_coco import make_tiny_coco, write_user_config

from mmyolo_ext.apis import Detections, Detector, load_config
from mmyolo_ext.apis.results import class_colour


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
    """(config, checkpoint, folder of images) of an untrained network whose scores are raised over the threshold."""
    folder = tmp_path_factory.mktemp('inference')
    data = make_tiny_coco(folder / 'data')
    cfg = load_config(write_user_config(folder / 'mine.py', data))
    init_default_scope('mmdet')
    torch.manual_seed(0)
    model = MODELS.build(cfg.model)
    for conv in model.bbox_head.convs_pred:
        torch.nn.init.normal_(conv.bias, 0.0, 2.0)
    checkpoint = folder / 'weights.pth'
    torch.save({'state_dict': model.state_dict(), 'meta': {'dataset_meta': {'CLASSES': ('r', 'b')}}}, checkpoint)
    return cfg, checkpoint, data / 'val'


@pytest.fixture(scope='module')
def detector(setup):
    return Detector(setup[0], setup[1], 'cpu')


def test_boxes_are_on_the_image_and_sorted(detector, setup):
    images = sorted(setup[2].glob('*.png'))
    results = list(detector(images, score_thr=0.2))
    assert len(results) == len(images) and any(len(found.scores) for found in results)
    for image, found in zip(images, results, strict=True):
        height, width = cv2.imread(str(image)).shape[:2]
        assert found.boxes_xyxy.shape == (len(found.scores), 4)
        assert (found.boxes_xyxy >= 0).all() and (found.boxes_xyxy <= [width, height] * 2).all()
        assert (np.diff(found.scores) <= 0).all() and (found.scores >= 0.2).all()


def test_files_arrays_and_batches_give_the_same(detector, setup):
    images = sorted(setup[2].glob('*.png'))
    arrays = [cv2.imread(str(image)) for image in images]
    for batch_size, inputs in ((1, arrays), (3, images)):
        for one, other in zip(detector(images), detector(inputs, batch_size=batch_size), strict=True):
            for field in ('boxes_xyxy', 'scores', 'labels'):
                np.testing.assert_allclose(getattr(one, field), getattr(other, field), rtol=1e-4, atol=1e-3)


def test_fused_and_in_half_precision(detector, setup):
    images = sorted(setup[2].glob('*.png'))
    fused = Detector(setup[0], setup[1], 'cpu', fuse=True)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in fused.model.modules())
    half = Detector(setup[0], setup[1], 'cpu', half=True)
    for ours, one, other in zip(*(kind(images, score_thr=0.2) for kind in (detector, fused, half)), strict=True):
        for field in ('boxes_xyxy', 'scores', 'labels'):
            np.testing.assert_allclose(getattr(one, field), getattr(ours, field), rtol=1e-4, atol=1e-3)
        # bfloat16 keeps 8 bits: scores of about 1/2 to some hundredths; something was rounded
        assert abs(other.scores.max() - ours.scores.max()) < 0.05
        assert other.scores.dtype == other.boxes_xyxy.dtype == np.float32
        assert len(other.scores) != len(ours.scores) or (other.scores != ours.scores).any()


def test_classes_come_from_the_checkpoint(detector):
    assert detector.classes == ('r', 'b')


def test_no_images_give_nothing(detector):
    assert list(detector([])) == []


def test_images_that_cannot_be_used_are_named(detector, tmp_path):
    with pytest.raises(ValueError, match='there is no image .*none.jpg'):
        list(detector([tmp_path / 'none.jpg']))
    (tmp_path / 'text.jpg').write_text('no image')
    with pytest.raises(ValueError, match='text.jpg'):
        list(detector([tmp_path / 'text.jpg']))
    with pytest.raises(ValueError, match=r'got \(4, 4\) uint8'):
        list(detector([np.zeros((4, 4), np.uint8)]))


def test_a_checkpoint_of_another_model_is_an_error(setup, tmp_path):
    saved = torch.load(setup[1], weights_only=True)
    saved['state_dict'].popitem()
    torch.save(saved, tmp_path / 'less.pth')
    with pytest.raises(ValueError, match='less.pth does not fit the config: .*1 are missing'):
        Detector(setup[0], tmp_path / 'less.pth', 'cpu')


def test_a_box_is_drawn_in_the_colour_of_its_class(tmp_path):
    source, target = tmp_path / 'grey.png', tmp_path / 'drawn.png'
    cv2.imwrite(str(source), np.full((200, 300, 3), 90, np.uint8))
    found = Detections(np.array([[50.0, 60.0, 150.0, 160.0]]), np.array([0.9]), np.array([1]), 'ab', image=source)
    assert found.save(target) == target
    drawn = cv2.imread(str(target))
    assert tuple(drawn[160, 100]) == class_colour(1) and tuple(drawn[110, 100]) == (90, 90, 90)
    assert len({class_colour(label) for label in range(80)}) == 80


def test_a_small_image_is_drawn_enlarged(tmp_path):
    source, target = tmp_path / 'grey.png', tmp_path / 'drawn.png'
    cv2.imwrite(str(source), np.full((100, 120, 3), 90, np.uint8))
    Detections(np.array([[20.0, 30.0, 60.0, 80.0]]), np.array([0.9]), np.array([1]), 'ab', image=source).save(target)
    drawn = cv2.imread(str(target))
    # 480 // 120 = 4: the lower border of the box lies at 4 * 80 = 320
    assert drawn.shape == (400, 480, 3) and tuple(drawn[320, 160]) == class_colour(1)
