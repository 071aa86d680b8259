"""Read a picture, or say which one cannot be read."""

import warnings

import cv2
import mmcv
import mmengine.fileio as fileio
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmyolo_ext.registry import TRANSFORMS

JPEG_START, JPEG_END = b'\xff\xd8', b'\xff\xd9'
JPEG_SCAN = 0xDA
PNG_START, PNG_END = b'\x89PNG\r\n\x1a\n', b'IEND\xaeB`\x82'


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names a picture it cannot use, truncated ones included.

    OpenCV fills the missing part of a truncated file with grey and says nothing, so that training would go on with
    boxes on nothing. Here a picture is broken if it is missing, cannot be decoded, is cut short (a JPEG without its
    end marker, a PNG without its last chunk), or has other sides than the annotation's ``height`` and ``width``.

    Args:
        skip_broken: Warn, once a file, and return None, upon which an mmengine dataset in training takes another
            sample. Otherwise a broken picture is an error.
        kwargs: Those of mmcv's ``LoadImageFromFile``.

    Raises:
        ValueError: On a broken picture, naming it and what is wrong.
    """

    def __init__(self, skip_broken: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.skip_broken = skip_broken
        self._named: set[str] = set()

    def transform(self, results: dict) -> dict | None:
        path = results['img_path']
        try:
            image = self._read(path)
            _check_sides(image, results)
        except ValueError as error:
            if not self.skip_broken:
                raise ValueError(f'cannot use picture {path}: {error}') from error
            if path not in self._named:
                self._named.add(path)
                warnings.warn(f'skipped picture {path}: {error}', stacklevel=2)
            return None
        shape = image.shape[:2]
        return {**results, 'img': image, 'img_shape': shape, 'ori_shape': shape}

    def _read(self, path: str) -> np.ndarray:
        try:
            content = fileio.get(path, backend_args=self.backend_args)
        except OSError as error:
            raise ValueError(f'{error.strerror or error} (check data_root and data_prefix)') from error
        if not content:
            raise ValueError('the file is empty')
        if is_truncated(content):
            raise ValueError('the file is cut short, copy it again')
        try:
            image = mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend)
        except (cv2.error, OSError) as error:
            raise ValueError(f'it cannot be decoded ({error})') from error
        if image is None:
            raise ValueError('it cannot be decoded, is it a picture?')
        return image.astype(np.float32) if self.to_float32 else image

    def __repr__(self) -> str:
        return f'{type(self).__name__}(skip_broken={self.skip_broken}, color_type={self.color_type!r})'


def is_truncated(content: bytes) -> bool:
    """Whether a JPEG or PNG lacks its end; False for any other format, which its decoder judges."""
    if content.startswith(PNG_START):
        return PNG_END not in content
    if content.startswith(JPEG_START):
        scan = _first_scan(content)
        # Inside scans a byte FF is followed by 00, so this pair is the end marker and none other.
        return scan is None or content.find(JPEG_END, scan) < 0
    return False


def _first_scan(content: bytes) -> int | None:
    """Where the first scan of a JPEG starts; None if its header is cut short.

    Segments are walked, for a thumbnail inside one of them has an end marker of its own.
    """
    position = len(JPEG_START)
    while position + 4 <= len(content):
        if content[position] != 0xFF:
            return position  # not a segment: leave the verdict to the end marker and the decoder
        if content[position + 1] == 0xFF:  # a fill byte
            position += 1
            continue
        if content[position + 1] == JPEG_SCAN:
            return position
        position += 2 + int.from_bytes(content[position + 2 : position + 4], 'big')
    return None


def _check_sides(image: np.ndarray, results: dict) -> None:
    if 'height' not in results or 'width' not in results:
        return
    noted, found = (results['height'], results['width']), image.shape[:2]
    if noted != found:
        turned = ': is its EXIF orientation ignored by the annotation?' if noted == found[::-1] else ''
        raise ValueError(f'it is {found} (height, width), its annotation says {noted}{turned}')
