"""What the runtime reads: metadata that is checked before it is believed, and images with the pixels of training."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from mmyolo_ext.export import runtime
from mmyolo_ext.image_io import read_image

SCENE = np.random.default_rng(0).integers(0, 256, (17, 30, 3), np.uint8)
LETTERBOX = '{"pad_val": 114, "centred": false, "allow_upscale": true, "interpolation": "area"}'
RULES = {
    'format': '1',
    'names': '["a", "b"]',
    'size_hw': '[64, 64]',
    'strides': '[8, 16, 32]',
    'dynamic': 'true',
    'precision': '"float32"',
    'letterbox': LETTERBOX,
    'channels': '"RGB"',
    'mean': '[0, 0, 0]',
    'std': '[255, 255, 255]',
    'activation': '"sigmoid"',
    'multi_label': 'true',
    'nms_in_graph': 'false',
    'score_thr': '0.001',
    'nms_pre': '30000',
    'nms_iou': '0.65',
    'class_agnostic': 'false',
    'max_per_img': '-1',
}


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_orientation_is_honoured_as_in_training(tmp_path, kind, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / 'a'
    Image.fromarray(SCENE).save(path, kind, exif=exif)
    image = runtime.read_image(path)
    np.testing.assert_array_equal(image, read_image(str(path))[0])
    assert image.shape == ((30, 17, 3) if orientation >= 5 else (17, 30, 3))


@pytest.mark.parametrize('suffix', ['.png', '.tiff'])
@pytest.mark.parametrize('shape', [(2, 2), (2, 2, 3), (2, 2, 4)])
def test_sixteen_bits_are_scaled_as_in_training(tmp_path, suffix, shape):
    path = tmp_path / f'a{suffix}'
    pixels = np.array([[0, 257], [32896, 65535]], np.uint16)  # 257 * (0, 1, 128, 255)
    cv2.imwrite(str(path), pixels if len(shape) == 2 else np.repeat(pixels[..., None], shape[2], 2))
    image = runtime.read_image(path)
    assert image[..., 0].tolist() == [[0, 1], [128, 255]] and image.shape == (2, 2, 3)
    np.testing.assert_array_equal(image, read_image(str(path))[0])


def test_a_file_cut_short_is_named(tmp_path):
    buffer = io.BytesIO()
    for kind in ('JPEG', 'PNG'):
        buffer.seek(0)
        Image.fromarray(SCENE).save(buffer, kind)
        (tmp_path / 'a').write_bytes(buffer.getvalue()[: buffer.tell() * 2 // 3])
        with pytest.raises(ValueError, match=r'a (is cut short|cannot be decoded)'):
            runtime.read_image(tmp_path / 'a')


@pytest.mark.parametrize('key', [key for key in RULES if key != 'format'])
def test_a_missing_key_is_named(key):
    with pytest.raises(ValueError, match=f'm has no {key} in its metadata'):
        runtime.read_rules({name: value for name, value in RULES.items() if name != key}, 'm')


@pytest.mark.parametrize(
    ('key', 'values'),
    {
        'format': ['2', '"1"', '[1]', '9' * 5000],
        'names': ['[]', '"ab"', '[1]', '{}', 'null', f'["{"x" * 1001}"]'],
        'size_hw': ['[64]', '[64, 64, 64]', '[0, 64]', '[-64, 64]', '[64.0, 64]', '[true, 64]', '[1e999, 64]', '64'],
        'strides': ['[]', '[0]', '[-8]', '[8.5]', '[2000]', f'[{", ".join(["8"] * 17)}]'],
        'dynamic': ['1', '"yes"', 'null'],
        'precision': ['"float64"', '32'],
        'letterbox': ['{}', 'null', LETTERBOX.replace('area', 'cubic'), LETTERBOX.replace('114', '300')],
        'channels': ['"GRAY"', '["RGB"]'],
        'mean': ['[0, 0]', '0', '[NaN, 0, 0]', '["0", 0, 0]', '[1e300, 0, 0]'],
        'std': ['[0, 1, 1]', '[-1, 1, 1]', '[1e-30, 1, 1]', '[NaN, 1, 1]', '[Infinity, 1, 1]', '[1]'],
        'activation': ['"relu"'],
        'score_thr': ['-0.1', '1.1', 'NaN', '"0.1"', 'true'],
        'nms_iou': ['2', 'NaN', 'null'],
        'nms_pre': ['1.5', '-2', '99999999999999999999', 'true'],
        'max_per_img': ['"9"', '-2'],
    }.items(),
)  # fmt: skip
def test_a_value_out_of_range_is_named(key, values):
    for value in values:
        with pytest.raises(
            ValueError, match=rf'm has metadata (with {key} = .*: it must be|of form|that is not JSON)'
        ):
            runtime.read_rules({**RULES, key: value}, 'm')


def test_an_input_that_would_fill_the_memory_is_refused():
    detector = object.__new__(runtime.ExportedDetector)
    detector.rules = runtime.read_rules({**RULES, 'size_hw': '[131072, 131072]'}, 'm')
    with pytest.raises(ValueError, match=r'may have 33,554,432 pixels, got \(131072, 131072\)'):
        detector._check_size(detector.rules['size_hw'])


def outputs(boxes=(1, 5, 4), scores=(1, 5, 2)):
    return {'boxes': np.zeros(boxes, np.float32), 'scores': np.zeros(scores, np.float32)}


def test_outputs_that_do_not_fit_the_metadata_are_refused():
    rules = runtime.read_rules(RULES, 'm')
    runtime.check_outputs(outputs(), 1, rules, 'm')
    for wrong in (
        {},
        {'boxes': outputs()['boxes']},
        outputs(boxes=(2, 5, 4)),
        outputs(boxes=(1, 5, 5)),
        outputs(boxes=(1, 4, 4)),
        outputs(scores=(1, 5, 3)),
        outputs(scores=(1, 5)),
    ):
        with pytest.raises(ValueError, match='m gives outputs that do not fit its metadata'):
            runtime.check_outputs(wrong, 1, rules, 'm')


@pytest.mark.parametrize(
    ('count', 'label', 'fits'),
    [(2, 1, True), (2, 2, False), (1, 2, True), (2, -1, False), (4, 0, False), (-1, 0, False)],
)
def test_labels_and_counts_of_the_graph_are_checked(count, label, fits):
    """Of three places the first ``count`` are detections; the label is that of the second."""
    rules = runtime.read_rules({**RULES, 'nms_in_graph': 'true'}, 'm')
    given = outputs((1, 3, 4), (1, 3))
    given |= {'labels': np.array([[0, label, 0]]), 'num_dets': np.array([[count]])}
    if fits:
        return runtime.check_outputs(given, 1, rules, 'm')
    with pytest.raises(ValueError, match='do not fit its metadata'):
        runtime.check_outputs(given, 1, rules, 'm')
