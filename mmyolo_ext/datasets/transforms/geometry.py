"""Letterbox, random affine and horizontal flip of one image."""

from collections.abc import Sequence

import cv2
import numpy as np

from mmyolo_ext.datasets.transforms import functional as F
from mmyolo_ext.datasets.transforms.annotations import Transform, replace_image
from mmyolo_ext.registry import TRANSFORMS

EXTRA = 0.5  # margin in strides, the default of RectBatchDataset


@TRANSFORMS.register_module()
class Letterbox(Transform):
    """Resize an image to fit ``size_hw``, aspect ratio kept, and pad it to the canvas.

    The canvas is ``results['batch_shape_hw']`` if :class:`RectBatchDataset` has set it, else ``size_hw``; with a
    ``stride`` it is the rectangle of the image itself, as the views of test-time augmentation need it.
    Padding goes right and below unless ``centred``; then every mmdet head undoes it by ``scale_factor`` alone, while
    centred padding needs a head that subtracts ``pad_param`` first, as ours does. A point of the original image moves
    to ``x * scale_factor + (left, top)``, in edge coordinates.

    Writes ``img``, ``img_shape`` (h, w), ``scale_factor`` (w, h; times that of an earlier resize), ``keep_ratio``,
    ``pad_param`` (top, bottom, left, right) px, and the boxes, clipped to the image. No box is dropped.

    Args:
        size_hw: (height, width) that the image must fit into, or the side of a square.
        pad_val: Grey level of the padding.
        centred: Pad both sides equally; the odd pixel goes right or below.
        allow_upscale: Enlarge images that are smaller than the size.
        interpolation: 'bilinear' (as in training), 'area' or 'nearest'.
        stride: Pad to the smallest rectangle, in multiples of ``stride``, that :class:`RectBatchDataset` would choose
            for a batch of this image alone.

    Raises:
        ValueError: On an argument out of its range, or an image that is letterboxed already.
    """

    def __init__(
        self,
        size_hw: int | Sequence[int],
        pad_val: int = 114,
        centred: bool = False,
        allow_upscale: bool = True,
        interpolation: str = 'bilinear',
        stride: int | None = None,
    ) -> None:
        self.size_hw = F.check_size_hw('size_hw', size_hw)
        self.pad_val = F.check_range('pad_val', pad_val, 0, 255)
        self.centred = centred
        self.allow_upscale = allow_upscale
        if interpolation not in F.INTERPOLATIONS:
            raise ValueError(f'interpolation must be one of {tuple(F.INTERPOLATIONS)}, got {interpolation!r}')
        self.interpolation = interpolation
        self.stride = stride

    def transform(self, results: dict) -> dict:
        """Resize and pad the image, and move its boxes."""
        if 'pad_param' in results:
            raise ValueError('the pipeline has two Letterbox transforms, but only one padding can be undone: keep one')
        image, annotations = self.read(results)
        if self.stride is None:
            canvas_hw = results.get('batch_shape_hw', self.size_hw)
        else:
            sides_hw = np.array([image.shape[:2]], np.float64)
            canvas_hw = F.rectangle(sides_hw, self.size_hw, self.stride, EXTRA, self.allow_upscale)
        plan = F.plan_letterbox(
            image.shape[:2], self.size_hw, canvas_hw, centred=self.centred, allow_upscale=self.allow_upscale
        )
        padded = F.letterbox_image(image, plan, self.pad_val, self.interpolation)
        results = replace_image(results, padded, annotations.moved(F.letterbox_boxes(annotations.boxes_xyxy, plan)))
        earlier_wh = results.get('scale_factor', (1.0, 1.0))
        results['scale_factor'] = tuple(float(s) for s in np.multiply(earlier_wh, plan.scale_wh))
        results['keep_ratio'] = True
        results['pad_param'] = plan.pad_tblr
        return results


@TRANSFORMS.register_module()
class Resize(Letterbox):
    """:class:`Letterbox` under the name and with the argument that tools of mmdet look for.

    Args:
        scale: (width, height) that the image must fit into.
        kwargs: Those of :class:`Letterbox`, except ``size_hw``.
    """

    def __init__(self, scale: Sequence[int], **kwargs) -> None:
        super().__init__(tuple(scale)[::-1], **kwargs)


@TRANSFORMS.register_module()
class RandomAffine(Transform):
    """Scale, rotate, shear and shift an image; its centre moves to the centre of an output of ``size``.

    Applies to the canvas of a mosaic, of twice the size, as to a plain resized image. A box becomes the upright box
    around its warped corners, clipped to the output; it is kept if both sides exceed 2 px, over a tenth of its area is
    visible and its aspect ratio is under 100. Without rotation and shear, the visible window is rounded to whole
    pixels.

    Args:
        size: (height, width) of the output, or the side of a square.
        scale: Scales are drawn from [1 - scale, 1 + scale].
        translate: Shifts are drawn from [-translate, translate], in fractions of the output's sides.
        degrees: Angles are drawn from [-degrees, degrees].
        shear: Shear angles of both axes are drawn from [-shear, shear] degrees.
        pad_val: Grey level outside the image.

    Raises:
        ValueError: On an argument out of its range.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        scale: float = 0.5,
        translate: float = 0.1,
        degrees: float = 0.0,
        shear: float = 0.0,
        pad_val: int = 114,
    ) -> None:
        self.size_hw = F.check_size_hw('size', size)
        self.scale = F.check_range('scale', scale, 0, 1, open_end=True)
        self.translate = F.check_range('translate', translate, 0, 1)
        self.degrees = F.check_range('degrees', degrees, 0, 180)
        self.shear = F.check_range('shear', shear, 0, 45, open_end=True)
        self.pad_val = F.check_range('pad_val', pad_val, 0, 255)

    def draw(self, rng: np.random.RandomState, input_hw: tuple[int, int]) -> np.ndarray:
        """Draw the matrix (3, 3) from the image to the output, in edge coordinates."""
        scale, degrees, shear_x, shear_y, shift_x, shift_y = rng.uniform(-1, 1, size=6).tolist()
        matrix = F.affine_about_centre(
            input_hw,
            self.size_hw,
            scale=1 + scale * self.scale,
            degrees=degrees * self.degrees,
            shear_xy=(shear_x * self.shear, shear_y * self.shear),
            shift_xy=(shift_x * self.translate, shift_y * self.translate),
        )
        return F.snap_window(matrix, self.size_hw)

    def transform(self, results: dict) -> dict:
        """Warp the image and its boxes."""
        image, annotations = self.read(results)
        matrix = self.draw(np.random, image.shape[:2])
        whole = F.warp_boxes(annotations.boxes_xyxy, matrix)
        seen = F.clip_boxes(whole, (0, 0, *self.size_hw[::-1]))
        annotations = annotations.moved(seen, F.keep_boxes(F.box_sides(whole), F.box_sides(seen)))
        return replace_image(results, F.warp_image(image, matrix, self.size_hw, self.pad_val), annotations)


@TRANSFORMS.register_module()
class HorizontalFlip(Transform):
    """Flip the image and its boxes horizontally.

    Unlike mmdet's ``RandomFlip``, the image is copied, not a view with negative strides, which would slow down later
    transforms. Writes ``flip`` and ``flip_direction`` as mmdet does.

    Args:
        prob: Probability of a flip.

    Raises:
        ValueError: On an argument out of its range.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = F.check_range('prob', prob, 0, 1)

    def transform(self, results: dict) -> dict:
        """Flip the image and its boxes, or neither."""
        if np.random.uniform() >= self.prob:
            return {**results, 'flip': False, 'flip_direction': None}
        image, annotations = self.read(results)
        flipped = annotations.moved(F.flip_boxes(annotations.boxes_xyxy, image.shape[1]))
        results = replace_image(results, cv2.flip(image, 1), flipped)
        return {**results, 'flip': True, 'flip_direction': 'horizontal'}
