"""Read images: the one place where files become pixels, for training, checks and drawing.

Every image comes as (H, W, 3) BGR uint8, turned as its EXIF orientation says, whatever its format:

* JPEG, PNG and WebP are turned here, by the orientation found in the file, and TIFF by OpenCV, so that the result does
  not depend on which formats a version of OpenCV knows EXIF of.
* 16-bit images are scaled by 255 / 65535 and rounded.
* Grey, palette and CMYK images become BGR; an alpha channel is left out; of an animation the first frame is read.
"""

import contextlib
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator

import cv2
import mmengine.fileio as fileio
import numpy as np

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
JPEG_SCAN, JPEG_APP1 = 0xDA, 0xE1
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
EXIF_START = b'Exif\0\0'
ORIENTATION_TAG, UNSIGNED_SHORT = 0x0112, 3
JPEG_COMPLAINTS = ('Corrupt JPEG data', 'Premature end of JPEG', 'Invalid JPEG', 'Unsupported marker', 'Warning: unkn')
HARMLESS = 'extraneous bytes before marker 0xd9'  # all of the image was there, and more
DARK_OF_16_BITS = 4096
READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

_stderr_lock = threading.Lock()


def read_image(path: str, backend_args: dict | None = None) -> tuple[np.ndarray, str]:
    """Read an image file.

    Args:
        path: A path, or an address that a file backend of MMEngine knows.
        backend_args: Of the file backend.

    Returns:
        The image (H, W, 3) BGR uint8, and what is odd about a file that can be used nevertheless, or ''.

    Raises:
        ValueError: If the file is missing, no regular file, empty, cut short, damaged, or no image. The message does
            not name the file.
    """
    return decode_image(read_bytes(path, backend_args))


def read_bytes(path: str, backend_args: dict | None = None, hint: str = 'check data_root and data_prefix') -> bytes:
    """The content of a regular file that is not empty; ValueError otherwise, see :func:`read_image`.

    A file that cannot be opened is an error that ends with ``hint``.
    """
    try:
        if '://' not in path:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a pipe would be waited for, a device never ends
                raise ValueError('it is no regular file')
        content = fileio.get(path, backend_args=backend_args)
    except OSError as error:
        raise ValueError(f'{error.strerror or error} ({hint})') from error
    if not content:
        raise ValueError('the file is empty')
    return content


def decode_image(content: bytes) -> tuple[np.ndarray, str]:
    """Decode the content of an image file; see :func:`read_image`."""
    image, complaint = decode_with(lambda: cv2.imdecode(np.frombuffer(content, np.uint8), READ_FLAGS), content)
    if image.dtype == np.uint16:
        image = cv2.convertScaleAbs(image, alpha=255 / 65535)
    elif image.dtype != np.uint8:
        raise ValueError(f'its pixels are of type {image.dtype}: convert it to 8 or 16 bits a channel')
    return turned(image, exif_orientation(content)), complaint


def decode_with(decode, content: bytes) -> tuple[np.ndarray, str]:
    """Call ``decode()``, a decoder of OpenCV's or mmcv's for ``content``, and judge what it says of the file.

    OpenCV fills the missing part of a JPEG with grey and only prints what libjpeg says about it.

    Returns:
        The image, and the complaint of libjpeg about a file that can be used nevertheless, or ''.

    Raises:
        ValueError: If the file is cut short or damaged, or cannot be decoded.
    """
    if is_truncated(content):
        raise ValueError('the file is cut short, copy it again')
    complaints: list[str] = []
    try:
        with jpeg_complaints(complaints) if content.startswith(JPEG_START) else contextlib.nullcontext():
            image = decode()
    except (cv2.error, OSError) as error:
        raise ValueError(f'it cannot be decoded ({error})') from error
    if image is None:
        raise ValueError('it cannot be decoded, is it an image?')
    grave = [complaint for complaint in complaints if HARMLESS not in complaint]
    if grave:
        raise ValueError(f'the file is damaged, copy it again ({grave[0]})')
    return image, complaints[0] if complaints else ''


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; False for any other format, which its decoder judges."""
    if content.startswith(PNG_START):
        return PNG_END not in content
    if content.startswith(JPEG_START):
        scan = _first_scan(content)
        # Inside scans a byte FF is followed by 00, so this pair is the end marker and none other.
        return scan is None or content.find(JPEG_END, scan) < 0
    return False


def exif_orientation(content: bytes) -> int:
    """The EXIF orientation, 1 to 8, of a JPEG, PNG or WebP; 1, upright, where there is none or a faulty one."""
    try:
        if content.startswith(JPEG_START):
            segments = (content[start:end] for marker, start, end in _segments(content) if marker == JPEG_APP1)
            exif = next((part for part in segments if part.startswith(EXIF_START)), b'')
        elif content.startswith(PNG_START):
            exif = next(_png_chunks(content, b'eXIf'), b'')
        elif content[:4] == b'RIFF' and content[8:12] == b'WEBP':
            exif = next(_webp_chunks(content, b'EXIF'), b'')
        else:
            return 1
        return _orientation_of(exif.removeprefix(EXIF_START))
    except (struct.error, IndexError):
        return 1


def turned(image: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an image (H, W, C) upright from an EXIF orientation, 1 to 8."""
    if orientation in (5, 6, 7, 8):
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def check_sides(image: np.ndarray, info: dict) -> None:
    """Compare an image (H, W, ...) with the ``height`` and ``width`` of its annotation, where it has them.

    Raises:
        ValueError: If they differ; the message does not name the image.
    """
    if 'height' not in info or 'width' not in info:
        return
    noted, found = (info['height'], info['width']), image.shape[:2]
    if noted != found:
        turned = ': is its EXIF orientation ignored by the annotation?' if noted == found[::-1] else ''
        raise ValueError(f'it is {found} (height, width), its annotation says {noted}{turned}')


def peculiarities(content: bytes) -> list[str]:
    """What is unusual about the content of a whole image file, each as a clause that says how it is treated."""
    found = []
    if exif_orientation(content) != 1:
        found.append('have an EXIF orientation: they are turned as it says, so annotate what an image viewer shows')
    if content.startswith(JPEG_START):
        return found
    raw = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        return found
    if raw.dtype == np.uint16:
        dark = raw.max() < DARK_OF_16_BITS
        found.append(
            f'have 16 bits a channel and no value above {DARK_OF_16_BITS} of 65535: they become nearly black when '
            'scaled to 8 bits, so stretch them first'
            if dark
            else 'have 16 bits a channel: they are scaled to 8 bits'
        )
    if raw.ndim == 3 and raw.shape[2] == 4 and raw[..., 3].min() < np.iinfo(raw.dtype).max:
        found.append('have transparent parts: the colours beneath are read')
    if content[:4] == b'GIF8' or content.startswith(PNG_START) and b'acTL' in content[:200]:
        found.append('are GIF or APNG: the first frame is read')
    return found


@contextlib.contextmanager
def jpeg_complaints(complaints: list[str]) -> Iterator[None]:
    """Collect the lines that libjpeg prints to the process's standard error; all other output goes on to it."""
    with _stderr_lock, _memory_file() as caught:
        stderr = os.dup(2)
        os.dup2(caught.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(stderr, 2)
            os.close(stderr)
        if caught.seek(0, os.SEEK_END):
            caught.seek(0)
            for line in caught.read().splitlines(keepends=True):
                text = line.decode(errors='replace').strip()
                if text.startswith(JPEG_COMPLAINTS):
                    complaints.append(text)
                else:
                    os.write(2, line)


def _memory_file():
    if hasattr(os, 'memfd_create'):
        return os.fdopen(os.memfd_create('stderr'), 'w+b', buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _first_scan(content: bytes) -> int | None:
    """Where the first scan of a JPEG starts; None if its header is cut short."""
    for marker, start, _ in _segments(content):
        if marker in (JPEG_SCAN, None):
            return start
    return None


def _segments(content: bytes) -> Iterator[tuple[int | None, int, int]]:
    """(marker, start, end) of the data of each segment of a JPEG, up to its first scan.

    Segments are walked, for a thumbnail inside one of them has markers of its own. Where something else than a segment
    comes, the marker is None.
    """
    position = len(JPEG_START)
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            yield None, position, len(content)  # leave the verdict to the end marker and the decoder
            return
        if content[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        marker, length = content[position + 1], int.from_bytes(content[position + 2 : position + 4], 'big')
        yield marker, position + 4 if marker != JPEG_SCAN else position, position + 2 + length
        if marker == JPEG_SCAN:
            return
        position += 2 + length


def _png_chunks(content: bytes, kind: bytes) -> Iterator[bytes]:
    position = len(PNG_START)
    while position + 8 <= len(content):
        length, name = struct.unpack_from('>I4s', content, position)
        if name == kind:
            yield content[position + 8 : position + 8 + length]
        position += 12 + length


def _webp_chunks(content: bytes, kind: bytes) -> Iterator[bytes]:
    position = 12
    while position + 8 <= len(content):
        name, length = struct.unpack_from('<4sI', content, position)
        if name == kind:
            yield content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2


def _orientation_of(tiff: bytes) -> int:
    """The orientation in the first directory of a TIFF structure, as EXIF holds it."""
    order = {b'II*\0': '<', b'MM\0*': '>'}.get(tiff[:4])
    if order is None:
        return 1
    (directory,) = struct.unpack_from(f'{order}I', tiff, 4)
    (entries,) = struct.unpack_from(f'{order}H', tiff, directory)
    for number in range(entries):
        tag, kind, _, value = struct.unpack_from(f'{order}HHIH', tiff, directory + 2 + 12 * number)
        if tag == ORIENTATION_TAG:
            return value if kind == UNSIGNED_SHORT and 1 <= value <= 8 else 1
    return 1
