"""A random similarity, shear and shift, into the network's input."""

from collections.abc import Sequence

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, read_annotations, replace_image
from .arguments import check_range, check_size_hw
from .functional import affine_about_centre, snap_window, warp_image
from .tiles import warp_annotations


@TRANSFORMS.register_module()
class RandomAffine(BaseTransform):
    """Scale, turn, shear and shift whatever comes, its centre going to the centre of a ``size`` picture.

    So the middle of a mosaic's double canvas and the whole of a plain resized picture come out alike. A box becomes
    the upright box around its warped corners, clipped to the output; it stays if both sides are over 2 px, over a
    tenth of its area is seen and its aspect ratio is under 100. Without turn and shear the output shows a window of
    whole pixels: what was drawn, each side of it rounded.

    Args:
        size: (height, width) of the output, or one side of a square.
        scale: Scales are drawn from [1 - scale, 1 + scale].
        translate: Shifts are drawn from [-translate, translate] of the output's sides.
        degrees: Angles are drawn from [-degrees, degrees].
        shear: Shear angles of both axes are drawn from [-shear, shear] degrees.
        pad_val: Grey level outside the picture.

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
        self.size_hw = check_size_hw('size', size)
        self.scale = check_range('scale', scale, 0, 1, open_end=True)
        self.translate = check_range('translate', translate, 0, 1)
        self.degrees = check_range('degrees', degrees, 0, 180)
        self.shear = check_range('shear', shear, 0, 45, open_end=True)
        self.pad_val = check_range('pad_val', pad_val, 0, 255)

    def draw(self, rng: np.random.RandomState, input_hw: tuple[int, int]) -> np.ndarray:
        """The matrix (3, 3) from the picture to the output, edge coordinates."""
        scale, degrees, shear_x, shear_y, shift_x, shift_y = rng.uniform(-1, 1, size=6).tolist()
        matrix = affine_about_centre(
            input_hw,
            self.size_hw,
            scale=1 + scale * self.scale,
            degrees=degrees * self.degrees,
            shear_xy=(shear_x * self.shear, shear_y * self.shear),
            shift_xy=(shift_x * self.translate, shift_y * self.translate),
        )
        return snap_window(matrix, self.size_hw)

    def transform(self, results: dict) -> dict:
        image, annotations = check_image(results, 'RandomAffine'), read_annotations(results)
        matrix = self.draw(np.random, image.shape[:2])
        warped = warp_image(image, matrix, self.size_hw, self.pad_val)
        return replace_image(results, warped, warp_annotations(annotations, matrix, self.size_hw))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(size={self.size_hw}, scale={self.scale}, translate={self.translate}, '
            f'degrees={self.degrees}, shear={self.shear}, pad_val={self.pad_val})'
        )
