"""Predictions from Python: pixels of the image, any input, errors that name the file."""

import io
import itertools
import sys
from email.message import Message
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from PIL import Image
from tiny_coco import make_tiny_coco, write_user_config
from tiny_detector import save_untrained

import mmyolo_ext
from mmyolo_ext.apis import Detections, Detector, inputs, load_config
from mmyolo_ext.apis.results import class_colour
from mmyolo_ext.apis.torch_model import lower_nms


@pytest.fixture(scope='module')
def setup(tmp_path_factory):
    """(config, checkpoint, folder of images) of an untrained network whose scores are raised over the threshold."""
    folder = tmp_path_factory.mktemp('inference')
    data = make_tiny_coco(folder / 'data')
    cfg = load_config(write_user_config(folder / 'mine.py', data))
    checkpoint = save_untrained(cfg, folder / 'weights.pth', ('r', 'b'))
    # without its config, and with the classes as earlier versions of MMDetection wrote them
    torch.save({**torch.load(checkpoint), 'meta': {'dataset_meta': {'CLASSES': ('r', 'b')}}}, checkpoint)
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
    for batch_size, forms in ((1, arrays), (3, images)):
        for one, other in zip(detector(images), detector(forms, batch_size=batch_size), strict=True):
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


# a checkpoint alone


@pytest.fixture(scope='module')
def alone(setup):
    """A checkpoint that holds its config."""
    saved = torch.load(setup[1])
    saved['meta']['cfg'] = setup[0].pretty_text
    path = setup[1].with_name('alone.pth')
    torch.save(saved, path)
    return path


def with_config(alone, file, change):
    saved = torch.load(alone)
    saved['meta']['cfg'] = change(saved['meta']['cfg'])
    torch.save(saved, file)
    return file


def test_a_checkpoint_alone_gives_the_boxes_of_config_and_checkpoint(detector, alone, setup):
    image = sorted(setup[2].glob('*.png'))[0]
    one, other = detector(image, 0.1), mmyolo_ext.Detector(alone, device='cpu')(image, 0.1)
    assert len(one.scores) and other.names == ('r', 'b')
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda text: None, 'has no config: give the config file too'),
        (lambda text: f'{text}\nx = open("ran", "w")', 'is refused, and nothing of it has run'),
        (lambda text: text.replace("'mmyolo_ext.YOLODetector'", "'os.mkdir'"), "has the type 'os.mkdir'"),
        (lambda text: text.replace("'mmyolo_ext.Letterbox'", "'antigravity'"), "has the type 'antigravity'"),
        (
            lambda text: text.replace("'mmyolo_ext.Letterbox'", "'mmyolo_ext.Detector'"),
            "'mmyolo_ext.Detector'",
        ),
        (lambda text: 'model = dict()', 'has no model or no test_dataloader'),
    ],
)
def test_a_config_in_a_checkpoint_is_not_executed(alone, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        Detector(with_config(alone, tmp_path / 'x.pth', change), device='cpu')
    assert [file.name for file in tmp_path.iterdir()] == ['x.pth'] and 'antigravity' not in sys.modules


def test_models_that_are_none(tmp_path):
    with pytest.raises(ValueError, match='yolov5_n needs a checkpoint'):
        Detector('yolov5_n')
    with pytest.raises(ValueError, match='there is no model .*x.onnx'):
        Detector(tmp_path / 'x.onnx')
    with pytest.raises(ValueError, match='nms_iou must be above 0'):
        lower_nms({}, 45)


def test_the_threshold_of_nms_is_lowered_never_raised():
    model = {'test_cfg': {'nms': {'iou_threshold': 0.65}, 'rcnn': {'nms': {'iou_threshold': 0.3}}}}
    lower_nms(model, 0.45)
    assert model == {'test_cfg': {'nms': {'iou_threshold': 0.45}, 'rcnn': {'nms': {'iou_threshold': 0.3}}}}


# inputs and results


@pytest.fixture(scope='module')
def films(setup, tmp_path_factory):
    """A film of the first image, three times, and the image in BGR as it comes back from the film."""
    file = tmp_path_factory.mktemp('films') / 'film.avi'
    image = cv2.imread(str(setup[2] / '000.png'))
    writer = cv2.VideoWriter(str(file), cv2.VideoWriter_fourcc(*'MJPG'), 5, image.shape[1::-1])
    for _ in range(3):
        writer.write(image)
    writer.release()
    return file, cv2.VideoCapture(str(file)).read()[1]


def test_every_form_of_an_image_gives_the_same(detector, setup):
    file = setup[2] / '000.png'
    wanted = detector(file, 0.1)
    assert isinstance(wanted, Detections) and wanted.image_hw == (64, 64) and len(wanted.scores)
    several = [detector(form, 0.1) for form in ([file], str(setup[2] / '00[0].png'), iter([cv2.imread(str(file))]))]
    single = [detector(form, 0.1) for form in (str(file), cv2.imread(str(file)), Image.open(file))]
    for found in [*single, *itertools.chain(*several)]:
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-4)
    names = [Path(one.image).name for one in detector(setup[2])]
    assert names == ['000.png', '001.png', '002.png', '003.png', '004.png']


def test_a_video_is_read_frame_by_frame(detector, films, monkeypatch):
    film, frame = films
    read = []
    monkeypatch.setattr(inputs, 'cv2', Counted(read))
    found = detector(film, 0.1)
    assert read == []
    first = next(found)
    assert read == ['read'] and first.frame == 0
    assert [one.frame for one in found] == [1, 2] and read == ['read'] * 4 + ['release']
    for ours, theirs in zip(first, detector(frame, 0.1), strict=True):
        np.testing.assert_array_equal(ours, theirs)


class Counted:
    """OpenCV, whose videos note what is asked of them."""

    def __init__(self, calls):
        self.calls = calls

    def VideoCapture(self, source):  # noqa: N802
        return Counting(source, self.calls)

    def __getattr__(self, name):
        return getattr(cv2, name)


class Counting:
    """A video that notes what is asked of it."""

    def __init__(self, source, calls):
        self.inner, self.calls = cv2.VideoCapture(source), calls

    def isOpened(self):  # noqa: N802
        return self.inner.isOpened()

    def get(self, key):
        return self.inner.get(key)

    def read(self):
        self.calls.append('read')
        return self.inner.read()

    def release(self):
        self.calls.append('release')
        self.inner.release()


@pytest.mark.parametrize(
    'address', ['https://example.org/a.jpg', 'rtsp://example.org/door', 'http://example.org/a.mp4']
)
def test_nothing_is_downloaded_without_being_asked(detector, address, monkeypatch):
    monkeypatch.setattr(inputs.urllib.request, 'urlopen', lambda *_: pytest.fail('opened'))
    with pytest.raises(ValueError, match='nothing is downloaded unless you ask for it: set allow_download=True'):
        list(detector([address]))
    with pytest.raises(ValueError, match='addresses start with http'):
        list(inputs.inputs('file:///etc/passwd', allow_download=True))


def test_an_image_is_downloaded_on_request(setup, monkeypatch):
    file = setup[2] / '000.png'

    class Answer(io.BytesIO):
        headers = Message()

    monkeypatch.setattr(inputs.urllib.request, 'urlopen', lambda address, timeout: Answer(file.read_bytes()))
    (one,) = inputs.inputs('https://example.org/a.png', allow_download=True)
    np.testing.assert_array_equal(one.image, cv2.imread(str(file)))
    monkeypatch.setattr(inputs, 'MOST_BYTES', 10)
    with pytest.raises(ValueError, match='download it by yourself'):
        list(inputs.inputs('https://example.org/a.png', allow_download=True))


def test_inputs_that_are_none(detector, tmp_path):
    for source, message in (
        (tmp_path, 'no images match'),
        (tmp_path / '*.jpg', 'no images match'),
        ({'a': 3.5}.values(), 'images are paths, arrays.* got float'),
        ([tmp_path / 'no.mp4'], 'there is no image .*no.mp4'),
    ):
        with pytest.raises(ValueError, match=message):
            list(detector(source))
    (tmp_path / 'text.mp4').write_text('no film')
    with pytest.raises(ValueError, match='text.mp4 cannot be opened by OpenCV'):
        list(detector(tmp_path / 'text.mp4'))


def test_crops_coco_and_files(tmp_path):
    image = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
    boxes = np.float32([[2.5, 3.5, 10.2, 8.0], [28.9, 0, 30, 20]])
    found = Detections(boxes, np.float32([0.5, 0.25]), np.array([1, 0]), ('a/b', 'c'), (20, 30), image)
    first, second = found.crop(tmp_path / 'crops')
    # columns 2 to 10, rows 3 to 7; then columns 28 and 29
    np.testing.assert_array_equal(first, image[3:8, 2:11])
    np.testing.assert_array_equal(second, image[:, 28:])
    assert sorted(file.name for file in (tmp_path / 'crops').iterdir()) == ['000_c.png', '001_a_b.png']
    np.testing.assert_array_equal(cv2.imread(str(tmp_path / 'crops' / '000_c.png')), first)
    one, other = found.to_coco(7)
    assert (one['image_id'], one['category_id'], one['score'], other['category_id']) == (7, 2, 0.5, 1)
    np.testing.assert_allclose(one['bbox'], [2.5, 3.5, 7.7, 4.5], atol=1e-5)
    assert found.to_coco(7, [10, 20])[0]['category_id'] == 20
    with pytest.raises(ValueError, match='must end in .jpg'):
        found.save(tmp_path / 'a.xyz')
    with pytest.raises(ValueError, match='without their image'):
        Detections(*found).plot()


def test_supervision_takes_the_boxes():
    supervision = pytest.importorskip('supervision', reason='the package supervision is not installed')
    boxes = np.float32([[2, 3, 10, 8]])
    found = Detections(boxes, np.float32([0.5]), np.array([1]), ('a', 'b')).to_supervision()
    assert isinstance(found, supervision.Detections) and found.data['class_name'].tolist() == ['b']
    assert found.xyxy.tolist() == boxes.tolist() and found.class_id.tolist() == [1]
