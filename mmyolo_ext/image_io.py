"""Read image files, for training, checks and drawing.

All images are read as (H, W, 3) BGR uint8, rotated by their EXIF orientation:

* JPEG, PNG and WebP are rotated here and TIFF by OpenCV, since support of EXIF depends on the version of OpenCV.
* 16-bit images are scaled by 255 / 65535 and rounded.
* Grey, palette and CMYK images become BGR; an alpha channel is ignored; the first frame of an animation is read.
"""

import contextlib
import os
import stat
import struct
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import cv2
import mmengine.fileio as fileio
import numpy as np
from PIL import Image

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
JPEG_SCAN, JPEG_APP1 = 0xDA, 0xE1
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'
EXIF_START = b'Exif\0\0'
ORIENTATION_TAG, UNSIGNED_SHORT = 0x0112, 3
TURNS = (5, 6, 7, 8)  # orientations that exchange width and height
IMAGE_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
JPEG_COMPLAINTS = ('Corrupt JPEG data', 'Premature end of JPEG', 'Invalid JPEG', 'Unsupported marker', 'Warning: unkn')
HARMLESS = 'extraneous bytes before marker 0xd9'  # the image is complete
DARK_OF_16_BITS = 4096
READ_FLAGS = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION

_stderr_lock = threading.Lock()


def read_image(path: str, backend_args: dict | None = None) -> tuple[np.ndarray, str]:
    """Read an image file.

    Args:
        path: A path, or a URL that a file backend of MMEngine supports.
        backend_args: Of the file backend.

    Returns:
        The image (H, W, 3) BGR uint8, and a warning about a file that is usable but damaged, or ''.

    Raises:
        ValueError: If the file is missing, no regular file, empty, truncated, damaged, or not an image. The message
            does not name the file.
    """
    return decode_image(read_bytes(path, backend_args))


def read_bytes(path: str, backend_args: dict | None = None, hint: str = 'check data_root and data_prefix') -> bytes:
    """Return the content of a regular, non-empty file.

    Raises:
        ValueError: As :func:`read_image`; the message about a file that cannot be opened ends with ``hint``.
    """
    try:
        if '://' not in path:
            mode = os.stat(path).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # reading a pipe or device may never end
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
        raise ValueError(f'its pixels have type {image.dtype}: convert it to 8 or 16 bits per channel')
    return turned(image, exif_orientation(content)), complaint


def decode_with(decode, content: bytes) -> tuple[np.ndarray, str]:
    """Call ``decode()``, a decoder of OpenCV or mmcv for ``content``, and check the file for damage.

    OpenCV fills the missing part of a JPEG with grey and only prints the messages of libjpeg.

    Returns:
        The image, and the message of libjpeg about a file that is damaged but usable, or ''.

    Raises:
        ValueError: If the file is truncated or damaged, or cannot be decoded.
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
    """Return whether a JPEG or PNG has no end; False for other formats, which their decoders check."""
    if content.startswith(PNG_START):
        return PNG_END not in content
    if content.startswith(JPEG_START):
        scan = _first_scan(content)
        # Inside scans a byte FF is followed by 00, so this pair can only be the end marker.
        return scan is None or content.find(JPEG_END, scan) < 0
    return False


def exif_orientation(content: bytes) -> int:
    """Return the EXIF orientation, 1 to 8, of a JPEG, PNG or WebP; 1, upright, if it is missing or invalid."""
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
    """Rotate and flip an image (H, W, C) upright from an EXIF orientation, 1 to 8."""
    if orientation in TURNS:
        image = cv2.transpose(image)
    flip = {2: 1, 3: -1, 4: 0, 6: 1, 7: -1, 8: 0}.get(orientation)
    return image if flip is None else cv2.flip(image, flip)


def image_size(path: str | os.PathLike) -> tuple[int, int]:
    """Return (width, height) of an image file from its header, rotated by its EXIF orientation.

    Raises:
        ValueError: If the file is missing or not an image.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            turned = image.format in ('JPEG', 'PNG', 'WEBP', 'TIFF') and image.getexif().get(ORIENTATION_TAG) in TURNS
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f'cannot read the size of {path}: {error}') from error
    return (height, width) if turned else (width, height)


def find_file(base: str | os.PathLike, suffixes: Sequence[str]) -> Path | None:
    """Return the file of a name without suffix and one of the suffixes, in small letters or capitals."""
    names = (f'{base}{end}' for suffix in suffixes for end in (suffix, suffix.upper()))
    return next((Path(name) for name in names if os.path.isfile(name)), None)


def check_sides(image: np.ndarray, info: dict) -> None:
    """Compare an image (H, W, ...) with the ``height`` and ``width`` of its annotation, where it has them.

    Raises:
        ValueError: If they differ; the message does not name the image.
    """
    if 'height' not in info or 'width' not in info:
        return
    noted, found = (info['height'], info['width']), image.shape[:2]
    if noted != found:
        turned = ': does the annotation ignore the EXIF orientation?' if noted == found[::-1] else ''
        raise ValueError(f'it is {found} (height, width), its annotation has {noted}{turned}')


def peculiarities(content: bytes) -> list[str]:
    """Return what is unusual about an image file, as clauses that tell how it is treated."""
    found = []
    if exif_orientation(content) != 1:
        found.append(
            'have an EXIF orientation: they are rotated by it, so annotate them as an image viewer shows them'
        )
    if content.startswith(JPEG_START):
        return found
    raw = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None:
        return found
    if raw.dtype == np.uint16:
        dark = raw.max() < DARK_OF_16_BITS
        found.append(
            f'have 16 bits per channel and no value above {DARK_OF_16_BITS} of 65535: they become nearly black when '
            'scaled to 8 bits, so stretch them first'
            if dark
            else 'have 16 bits per channel: they are scaled to 8 bits'
        )
    if raw.ndim == 3 and raw.shape[2] == 4 and raw[..., 3].min() < np.iinfo(raw.dtype).max:
        found.append('have transparent parts: their hidden colours are read')
    if content[:4] == b'GIF8' or content.startswith(PNG_START) and b'acTL' in content[:200]:
        found.append('are GIF or APNG: the first frame is read')
    return found


@contextlib.contextmanager
def jpeg_complaints(complaints: list[str]) -> Iterator[None]:
    """Collect the lines that libjpeg prints to standard error; pass on all other output."""
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
    """Return the start of the first scan of a JPEG; None if its header is truncated."""
    for marker, start, _ in _segments(content):
        if marker in (JPEG_SCAN, None):
            return start
    return None


def _segments(content: bytes) -> Iterator[tuple[int | None, int, int]]:
    """Yield (marker, start, end) of the data of each segment of a JPEG, up to its first scan.

    A search for markers would find those of thumbnails inside segments. The marker is None for data that are not a
    segment.
    """
    position = len(JPEG_START)
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            yield None, position, len(content)  # is_truncated and the decoder check the rest
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
    """Return the orientation in the first directory of a TIFF structure, the format of EXIF."""
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
