"""Load the image of a sample, or say which one cannot be used."""

import warnings

import mmcv
import numpy as np
from mmcv.transforms import LoadImageFromFile

from mmyolo_ext.image_io import check_sides, decode_image, decode_with, read_bytes
from mmyolo_ext.registry import TRANSFORMS


@TRANSFORMS.register_module()
class LoadImage(LoadImageFromFile):
    """mmcv's ``LoadImageFromFile`` that names an image it cannot use.

    An image is broken if it is missing, no regular file, cannot be decoded, is cut short or damaged (OpenCV fills the
    missing part of a JPEG with grey), or has other sides than the annotation's ``height`` and ``width``. A JPEG whose
    data hold more than its image is used with a warning.

    Colour images come as :mod:`mmyolo_ext.image_io` reads them: the EXIF orientation is honoured in JPEG, PNG,
    WebP and TIFF, and 16 bits a channel are scaled to 8. With another ``color_type`` or ``imdecode_backend``, mmcv
    decodes.

    Args:
        skip_broken: Warn, once a file, and return None, upon which an mmengine dataset in training takes another
            sample. Otherwise a broken image is an error.
        kwargs: Those of mmcv's ``LoadImageFromFile``.

    Raises:
        ValueError: On a broken image, naming it and what is wrong.
    """

    def __init__(self, skip_broken: bool = False, **kwargs) -> None:
        super().__init__(**kwargs)
        self.skip_broken = skip_broken
        self._named: set[str] = set()

    def transform(self, results: dict) -> dict | None:
        path = results['img_path']
        try:
            image, complaint = self._read(path)
            check_sides(image, results)
        except ValueError as error:
            if not self.skip_broken:
                raise ValueError(f'cannot use image {path}: {error}') from error
            self._warn_once(path, f'skipped image {path}: {error}')
            return None
        if complaint:
            self._warn_once(path, f'image {path} may be damaged: {complaint}')
        shape = image.shape[:2]
        return {**results, 'img': image, 'img_shape': shape, 'ori_shape': shape}

    def _read(self, path: str) -> tuple[np.ndarray, str]:
        content = read_bytes(path, self.backend_args)
        if (self.color_type, self.imdecode_backend) == ('color', 'cv2'):
            image, complaint = decode_image(content)
        else:
            image, complaint = decode_with(
                lambda: mmcv.imfrombytes(content, flag=self.color_type, backend=self.imdecode_backend), content
            )
        return image.astype(np.float32) if self.to_float32 else image, complaint

    def _warn_once(self, path: str, message: str) -> None:
        if path not in self._named:
            self._named.add(path)
            warnings.warn(message, stacklevel=3)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(skip_broken={self.skip_broken}, color_type={self.color_type!r})'
