"""Files become the same pixels everywhere: EXIF, bit depths, and damage, judged by Pillow where it can be."""

import io
import os
import sys
import threading

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from mmyolo_ext.image_io import decode_image, exif_orientation, jpeg_complaints, read_image, turned

# smooth, so that lossy formats come near to it; no two corners alike
ROWS, COLUMNS = np.mgrid[:48, :80]
SCENE = np.stack([ROWS * 5, COLUMNS * 3, (ROWS + COLUMNS) * 2 % 256 // 2], 2).astype(np.uint8)
NOISE = cv2.GaussianBlur(np.random.RandomState(0).randint(0, 256, (128, 128, 3), dtype=np.uint8), (5, 5), 0)
JPEG = cv2.imencode('.jpg', NOISE)[1].tobytes()
PROGRESSIVE = cv2.imencode('.jpg', NOISE, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()


def with_orientation(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[274] = orientation
    buffer = io.BytesIO()
    Image.fromarray(SCENE[..., ::-1]).save(buffer, kind, exif=exif, **({'lossless': True} if kind == 'WEBP' else {}))
    return buffer.getvalue()


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['JPEG', 'PNG', 'WEBP', 'TIFF'])
def test_exif_orientation(kind, orientation):
    content = with_orientation(kind, orientation)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert('RGB'))[..., ::-1]
    image, complaint = decode_image(content)
    assert complaint == '' and image.shape == expected.shape
    assert np.abs(image.astype(int) - expected).max() <= (4 if kind == 'JPEG' else 0)
    if kind != 'TIFF':
        assert exif_orientation(content) == orientation


def test_chunks_of_odd_length_are_padded():
    """A WebP chunk of 3 bytes takes 4, one of a PNG takes 3."""
    webp, png = with_orientation('WEBP', 6), with_orientation('PNG', 6)
    assert exif_orientation(webp[:12] + b'JUNK' + (3).to_bytes(4, 'little') + b'abc\0' + webp[12:]) == 6
    assert exif_orientation(png[:8] + (3).to_bytes(4, 'big') + b'tEXtabc' + bytes(4) + png[8:]) == 6


def test_turning_undoes_what_the_tag_says():
    """As the table of EXIF 2.3 says: 6 means that row 0 of the file is the right side of the scene."""
    stored = np.arange(6, dtype=np.uint8).reshape(2, 3)[..., None].repeat(3, 2)  # rows 0 1 2 and 3 4 5
    assert turned(stored, 6)[..., 0].tolist() == [[3, 0], [4, 1], [5, 2]]
    assert turned(stored, 8)[..., 0].tolist() == [[2, 5], [1, 4], [0, 3]]
    assert turned(stored, 3)[..., 0].tolist() == [[5, 4, 3], [2, 1, 0]]


@pytest.mark.parametrize('cut', range(0, 60, 3))
def test_faulty_exif_reads_as_upright(cut):
    """Whatever is left of the EXIF block, no struct error leaves."""
    content = with_orientation('JPEG', 6)
    start = content.index(b'Exif')
    assert exif_orientation(content[: start + cut]) in (1, 6)
    broken = bytearray(content)
    broken[start + 6 + cut % 20] ^= 0xFF
    assert exif_orientation(bytes(broken)) in range(1, 9)


@pytest.mark.parametrize('extension', ['.png', '.tiff'])
def test_sixteen_bits_are_scaled(extension):
    """round(v * 255 / 65535): 128 -> 0.498 -> 0, 129 -> 0.502 -> 1, 33153 = 129 * 257 -> 129, 65407 -> 254.502 -> 255.
    By 1 / 256, 33153 would be 129.5; by the high byte, 129 would be 0."""
    values = np.array([[0, 128, 129, 257, 33153, 65407, 65535]], np.uint16)
    expected = [0, 0, 1, 1, 129, 255, 255]
    for image in (values, np.dstack([values] * 3)):
        decoded, _ = decode_image(cv2.imencode(extension, image)[1].tobytes())
        assert decoded.dtype == np.uint8 and decoded.shape == (1, 7, 3)
        assert decoded[0, :, 0].tolist() == decoded[0, :, 2].tolist() == expected


def test_float_images_are_refused():
    content = cv2.imencode('.tiff', NOISE.astype(np.float32))[1].tobytes()
    with pytest.raises(ValueError, match='type float32: convert it to 8 or 16 bits'):
        decode_image(content)


@pytest.mark.parametrize('mode', ['L', 'P', 'RGBA', 'LA', '1', 'CMYK'])
def test_every_mode_becomes_bgr(mode):
    kind = 'JPEG' if mode == 'CMYK' else 'PNG'
    buffer = io.BytesIO()
    image = Image.fromarray(SCENE[..., ::-1]).convert(mode)
    image.save(buffer, kind)
    expected = np.asarray(Image.open(io.BytesIO(buffer.getvalue())).convert('RGB'))[..., ::-1].astype(int)
    decoded, _ = decode_image(buffer.getvalue())
    assert decoded.shape == SCENE.shape and np.abs(decoded - expected).max() <= (16 if mode == 'CMYK' else 0)


def test_a_gif_under_another_name(tmp_path):
    Image.fromarray(SCENE[..., ::-1]).save(tmp_path / 'a.gif')
    (tmp_path / 'a.gif').rename(tmp_path / 'a.jpg')
    image, _ = read_image(str(tmp_path / 'a.jpg'))
    assert image.shape == SCENE.shape


HALF = len(JPEG) // 2
DAMAGED = {
    'end marker after half': JPEG[:HALF] + b'\xff\xd9',
    'end marker after 90 %': JPEG[: len(JPEG) * 9 // 10] + b'\xff\xd9',
    'progressive, end marker after half': PROGRESSIVE[: len(PROGRESSIVE) // 2] + b'\xff\xd9',
}


@pytest.mark.parametrize('name', DAMAGED)
def test_a_jpeg_damaged_before_its_end_marker(name):
    with pytest.raises(ValueError, match='damaged, copy it again .Corrupt JPEG data: premature end'):
        decode_image(DAMAGED[name])


def test_a_jpeg_with_surplus_data_is_complained_about():
    """Zeros in the middle end blocks too early: all of the image is there, but not all of the data are used."""
    image, complaint = decode_image(JPEG[:HALF] + bytes(100) + JPEG[HALF + 100 :])
    assert image.shape == (128, 128, 3) and 'extraneous bytes' in complaint
    assert decode_image(JPEG)[1] == decode_image(PROGRESSIVE)[1] == ''


def test_other_output_to_stderr_is_passed_on(capfd):
    complaints: list[str] = []
    with jpeg_complaints(complaints):
        os.write(2, b'another thread\nCorrupt JPEG data: x\nand more\n')
    print('afterwards', file=sys.stderr, flush=True)
    assert complaints == ['Corrupt JPEG data: x']
    assert capfd.readouterr().err == 'another thread\nand more\nafterwards\n'


def test_threads_do_not_mix_their_complaints():
    results: dict[int, list[str]] = {k: [] for k in range(4)}

    def read(number: int) -> None:
        for _ in range(30):
            try:
                results[number].append(decode_image(JPEG if number % 2 else DAMAGED['end marker after half'])[1])
            except ValueError:
                results[number].append('damaged')

    threads = [threading.Thread(target=read, args=(number,)) for number in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {k: ['' if k % 2 else 'damaged'] * 30 for k in range(4)}


def test_no_file_is_waited_for(tmp_path):
    os.mkfifo(tmp_path / 'pipe.jpg')
    for path, message in ((tmp_path / 'pipe.jpg', 'no regular file'), ('/dev/zero', 'no regular file')):
        with pytest.raises(ValueError, match=message):
            read_image(str(path))
    with pytest.raises(ValueError, match='Is a directory'):
        read_image(str(tmp_path))


def test_names_of_any_letters_and_links(tmp_path):
    path = tmp_path / 'grüne Äpfel 苹果.png'
    path.write_bytes(cv2.imencode('.png', SCENE)[1].tobytes())
    (tmp_path / 'link.png').symlink_to(path)
    for name in (path, tmp_path / 'link.png'):
        np.testing.assert_array_equal(read_image(str(name))[0], SCENE)
