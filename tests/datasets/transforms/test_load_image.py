"""Broken images are named; whole ones, however odd, are read."""

import warnings

import cv2
import numpy as np
import pytest

from mmyolo_ext.datasets.transforms import LoadImage
from mmyolo_ext.image_io import is_truncated

IMAGE = np.random.RandomState(0).randint(0, 256, (40, 60, 3), dtype=np.uint8)


def encoded(extension, *options):
    return cv2.imencode(extension, IMAGE, options)[1].tobytes()


def with_thumbnail(jpeg):
    """A JPEG whose first segment holds a whole JPEG, end marker included, as cameras write it."""
    thumbnail = cv2.imencode('.jpg', IMAGE[:8, :8])[1].tobytes()
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    return jpeg[:2] + segment + jpeg[2:]


WHOLE = {
    'plain.jpg': encoded('.jpg'),
    'progressive.jpg': encoded('.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
    'trailing.jpg': encoded('.jpg') + b'more, as some cameras append',
    'thumbnail.jpg': with_thumbnail(encoded('.jpg')),
    'plain.png': encoded('.png'),
    'trailing.png': encoded('.png') + b'more',
    'plain.bmp': encoded('.bmp'),
    'jpeg_called.png': encoded('.jpg'),
}
BROKEN = {
    'half.jpg': (encoded('.jpg')[: len(encoded('.jpg')) // 2], 'cut short'),
    'last_byte.jpg': (encoded('.jpg')[:-1], 'cut short'),
    'half_progressive.jpg': (encoded('.jpg', cv2.IMWRITE_JPEG_PROGRESSIVE, 1)[:-40], 'cut short'),
    'half_thumbnail.jpg': (with_thumbnail(encoded('.jpg'))[:-200], 'cut short'),
    'header_only.jpg': (encoded('.jpg')[:30], 'cut short'),
    'half.png': (encoded('.png')[: len(encoded('.png')) // 2], 'cut short'),
    'last_byte.png': (encoded('.png')[:-1], 'cut short'),
    'empty.jpg': (b'', 'empty'),
    'garbage.jpg': (b'this is no image at all', 'cannot be decoded'),
    'garbage.png': (bytes(range(256)) * 4, 'cannot be decoded'),
}


@pytest.mark.parametrize('name', WHOLE)
def test_whole_images(tmp_path, name):
    (tmp_path / name).write_bytes(WHOLE[name])
    results = LoadImage()({'img_path': str(tmp_path / name), 'height': 40, 'width': 60})
    assert results['img'].shape == (40, 60, 3) and results['img'].dtype == np.uint8
    assert results['img_shape'] == results['ori_shape'] == (40, 60)
    if name.endswith(('png', 'bmp')) and 'jpeg' not in name:
        np.testing.assert_array_equal(results['img'], IMAGE)  # blue first


@pytest.mark.parametrize('name', BROKEN)
def test_broken_images_are_named(tmp_path, name):
    content, reason = BROKEN[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=f'{path}.*{reason}'):
        LoadImage()({'img_path': str(path)})
    loader = LoadImage(skip_broken=True)
    with pytest.warns(UserWarning, match=f'skipped image {path}.*{reason}'):
        assert loader({'img_path': str(path)}) is None
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter('default')  # Python's own filter: once a file
        assert [loader({'img_path': str(path)}) for _ in range(3)] == [None] * 3
    assert len(shown) <= 1


def test_missing_images_are_named(tmp_path):
    with pytest.raises(ValueError, match=r'nowhere\.jpg: No such file.*data_prefix'):
        LoadImage()({'img_path': str(tmp_path / 'nowhere.jpg')})
    with pytest.raises(ValueError, match=f'{tmp_path}: Is a directory'):
        LoadImage()({'img_path': str(tmp_path)})


def test_sides_other_than_annotated(tmp_path):
    path = tmp_path / 'a.png'
    path.write_bytes(WHOLE['plain.png'])
    with pytest.raises(ValueError, match=r'it is \(40, 60\).*annotation has \(60, 40\): does the annotation ignore'):
        LoadImage()({'img_path': str(path), 'height': 60, 'width': 40})
    with pytest.raises(ValueError, match=r'annotation has \(41, 60\)$'):
        LoadImage()({'img_path': str(path), 'height': 41, 'width': 60})


def test_every_cut_of_a_jpeg_is_found():
    """Wherever the file ends, but for the end itself."""
    content = WHOLE['thumbnail.jpg']
    assert not is_truncated(content)
    assert all(is_truncated(content[:end]) for end in range(2, len(content)))


def test_float_images_when_asked(tmp_path):
    (tmp_path / 'a.png').write_bytes(WHOLE['plain.png'])
    image = LoadImage(to_float32=True)({'img_path': str(tmp_path / 'a.png')})['img']
    assert image.dtype == np.float32


def test_bccd_is_whole(bccd_dir):
    paths = sorted((bccd_dir / 'JPEGImages').glob('*.jpg'))
    assert len(paths) == 364
    assert not [path.name for path in paths if is_truncated(path.read_bytes())]
