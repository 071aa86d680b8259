"""Geometry of images and boxes as pure functions on arrays, and checks of arguments. Nothing here is random.

**Pixels and edges.** Coordinates are those of edges, as in COCO: pixel (row r, column c) covers [c, c+1) x [r, r+1),
its centre is (c + 1/2, r + 1/2), an image of W columns spans 0 <= x <= W, and the box of columns 3, 4 and 5 is
(3, 6). Images and boxes are warped by the same matrix.
``cv2.resize`` follows this convention; ``cv2.warpAffine`` counts from pixel centres, and :func:`warp_image` converts.

Letters: G boxes; H, W height and width. Images are (H, W, 3) uint8, boxes (G, 4) float xyxy in pixels,
matrices (3, 3) float64 acting on columns (x, y, 1).
"""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import NamedTuple

import cv2
import numpy as np

PIXEL_TOLERANCE = 1e-6  # px, rounding errors of integers after some float64 matrix products
INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'area': cv2.INTER_AREA}


def check_size_hw(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Return a size in pixels as (height, width).

    Args:
        name: Name of the argument, for the error.
        size: ``(height, width)``, or the side of a square.

    Raises:
        ValueError: Unless it is one positive integer or two.
    """
    sides = (size, size) if isinstance(size, Integral) else tuple(size) if isinstance(size, Sequence) else (size,)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise ValueError(f'{name} must be (height, width) or the side of a square, integers above 0, got {size!r}')
    return int(sides[0]), int(sides[1])


def check_range(name: str, value: float, low: float, high: float, *, open_end: bool = False) -> float:
    """Return ``value`` if it is a number in ``[low, high]``, or ``[low, high)`` with ``open_end``.

    Raises:
        ValueError: Otherwise.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (open_end and value == high):
        raise ValueError(f'{name} must be in [{low}, {high}{")" if open_end else "]"}, got {value!r}')
    return value


def annotated_hw(info: dict) -> tuple[int, int]:
    """Return (height, width) of an image from its annotation.

    Raises:
        ValueError: If they are missing.
    """
    if not info.get('height') or not info.get('width'):
        raise ValueError(f'height and width in the annotation of {info.get("img_path")} are missing')
    return info['height'], info['width']


class LetterboxPlan(NamedTuple):
    """Size and position of an image in its canvas.

    ``resized_hw``: size after resizing; ``pad_tblr``: padding above, below, left and right, px; ``scale_wh``: new over
    old width and height, after rounding to whole pixels.
    """

    resized_hw: tuple[int, int]
    pad_tblr: tuple[int, int, int, int]
    scale_wh: tuple[float, float]


def plan_letterbox(
    image_hw: tuple[int, int],
    size_hw: tuple[int, int],
    canvas_hw: tuple[int, int],
    *,
    centred: bool = False,
    allow_upscale: bool = True,
) -> LetterboxPlan:
    """Fit an image into ``size_hw``, aspect ratio kept, and place it in ``canvas_hw``, top left or centred.

    If the canvas is smaller than the size, the image is fitted into the canvas. An odd pixel of centred padding goes
    right or below.
    """
    height, width = image_hw
    ratio = min(min(size_hw[0], canvas_hw[0]) / height, min(size_hw[1], canvas_hw[1]) / width)
    if not allow_upscale:
        ratio = min(ratio, 1.0)
    # Round half up, as mmcv does, to at least one pixel.
    resized_h, resized_w = max(int(height * ratio + 0.5), 1), max(int(width * ratio + 0.5), 1)
    spare_h, spare_w = canvas_hw[0] - resized_h, canvas_hw[1] - resized_w
    top, left = (spare_h // 2, spare_w // 2) if centred else (0, 0)
    return LetterboxPlan(
        (resized_h, resized_w), (top, spare_h - top, left, spare_w - left), (resized_w / width, resized_h / height)
    )


def rectangle(
    sides_hw: np.ndarray, size_hw: tuple[int, int], stride: int, extra: float, allow_upscale: bool = True
) -> tuple[int, int]:
    """Return the smallest (height, width), multiples of ``stride``, for images (N, 2) fitted into ``size_hw``."""
    ratios = (np.array(size_hw) / sides_hw).min(axis=1, keepdims=True)  # (N, 1)
    if not allow_upscale:
        ratios = ratios.clip(max=1)
    # 1e-6: a rounding error above a multiple of the stride adds no stride.
    strides = (sides_hw * ratios).max(axis=0) / stride + extra
    return tuple(math.ceil(s - 1e-6) * stride for s in strides)


def letterbox_image(
    image: np.ndarray, plan: LetterboxPlan, pad_val: int, interpolation: str = 'bilinear'
) -> np.ndarray:
    """Resize and pad an image as planned, into a new array."""
    if image.shape[:2] != plan.resized_hw:
        image = cv2.resize(image, plan.resized_hw[::-1], interpolation=INTERPOLATIONS[interpolation])
    return cv2.copyMakeBorder(image, *plan.pad_tblr, cv2.BORDER_CONSTANT, value=(pad_val,) * 3)


def letterbox_boxes(boxes_xyxy: np.ndarray, plan: LetterboxPlan) -> np.ndarray:
    """Move boxes (G, 4) with their image and clip them to it."""
    (height, width), (top, _, left, _) = plan.resized_hw, plan.pad_tblr
    moved = boxes_xyxy * np.tile(plan.scale_wh, 2) + (left, top, left, top)
    return clip_boxes(moved, (left, top, left + width, top + height))


def shrunk_hw(image_hw: tuple[int, int], size_hw: tuple[int, int] | None) -> tuple[int, int]:
    """Return the size of an image fitted into ``size_hw``, ratio kept, if it is larger; None changes nothing."""
    return image_hw if size_hw is None else plan_letterbox(image_hw, size_hw, size_hw, allow_upscale=False).resized_hw


def shrink_image(image: np.ndarray, size_hw: tuple[int, int] | None) -> np.ndarray:
    """Fit an image into ``size_hw`` if it is larger, by area interpolation."""
    new_hw = shrunk_hw(image.shape[:2], size_hw)
    return image if new_hw == image.shape[:2] else cv2.resize(image, new_hw[::-1], interpolation=cv2.INTER_AREA)


def affine_about_centre(
    input_hw: tuple[int, int],
    output_hw: tuple[int, int],
    *,
    scale: float = 1.0,
    degrees: float = 0.0,
    shear_xy: tuple[float, float] = (0.0, 0.0),
    shift_xy: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Return the matrix that rotates and scales an image about its centre, shears it, and moves it to the output's.

    x' = c_out + s + Sh R (x - c_in) with R = scale * [[cos, -sin], [sin, cos]] (y points down, so a positive angle
    is clockwise) and Sh = [[1, tan shear_x], [tan shear_y, 1]].

    Args:
        shear_xy: Degrees.
        shift_xy: s as a fraction of the output's width and height.
    """
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    tan_x, tan_y = (math.tan(math.radians(angle)) for angle in shear_xy)
    xx, xy = cos + tan_x * sin, tan_x * cos - sin
    yx, yy = tan_y * cos + sin, cos - tan_y * sin
    x_in, y_in = input_hw[1] / 2, input_hw[0] / 2
    x_out, y_out = output_hw[1] * (0.5 + shift_xy[0]), output_hw[0] * (0.5 + shift_xy[1])
    return np.array([[xx, xy, x_out - xx * x_in - xy * y_in], [yx, yy, y_out - yx * x_in - yy * y_in], [0, 0, 1]])


def is_straight(matrix: np.ndarray) -> bool:
    """Return whether a matrix only scales and shifts: no rotation, shear or reflection."""
    (xx, xy, _), (yx, yy, _), _ = matrix.tolist()
    return xy == 0 == yx and xx > 0 < yy


def snap_window(matrix: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the nearest matrix whose output is a window of whole pixels, if ``matrix`` only scales and shifts.

    Each side of the window moves by at most half a pixel of the input. The warp is then a crop and a resize, which
    is faster than ``cv2.warpAffine``. Any other matrix is returned unchanged.
    """
    if not is_straight(matrix):
        return matrix
    (scale_x, _, x), (_, scale_y, y), _ = matrix.tolist()
    scale_x, x = _snap_side(scale_x, x, size_hw[1])
    scale_y, y = _snap_side(scale_y, y, size_hw[0])
    return np.array([[scale_x, 0, x], [0, scale_y, y], [0, 0, 1]])


def _snap_side(scale: float, shift: float, side: int) -> tuple[float, float]:
    start = -shift / scale
    first = math.floor(start + 0.5)
    shown = max(math.floor(start + side / scale + 0.5) - first, 1)
    return side / shown, -first * side / shown


def shown_window(matrix: np.ndarray, size_hw: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """Return the window (x1, y1, x2, y2) of the input that the output shows, or None if it has fractional pixels."""
    if not is_straight(matrix):
        return None
    (scale_x, _, x), (_, scale_y, y), _ = matrix.tolist()
    left, top = -x / scale_x, -y / scale_y
    exact = left, top, left + size_hw[1] / scale_x, top + size_hw[0] / scale_y
    window = tuple(map(round, exact))
    return window if max(abs(a - b) for a, b in zip(exact, window, strict=True)) < PIXEL_TOLERANCE else None


def warp_image(image: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int], pad_val: int) -> np.ndarray:
    """Warp an image, bilinear, by a matrix between edge coordinates; fill the outside with ``pad_val``."""
    window = shown_window(matrix, size_hw)
    if window is not None:
        return resize_new(crop_window(image, window, pad_val), size_hw)
    return cv2.warpAffine(
        image, pixel_matrix(matrix), size_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=(pad_val,) * 3
    )


def pixel_matrix(matrix: np.ndarray) -> np.ndarray:
    """Convert a matrix (3, 3) between edge coordinates to one (2, 3) between pixel centres, as OpenCV expects."""
    # With u = x - 1/2 in pixel centres, x' = Ax + b reads u' = Au + b + A/2 - 1/2.
    centred = matrix[:2].copy()
    centred[:, 2] += matrix[:2, :2].sum(axis=1) / 2 - 0.5
    return centred


def crop_window(image: np.ndarray, window_xyxy: tuple[int, int, int, int], pad_val: int) -> np.ndarray:
    """Crop a window of whole pixels: a view if it is inside the image, else a new array padded with ``pad_val``."""
    (x1, y1, x2, y2), (height, width) = window_xyxy, image.shape[:2]
    seen = max(x1, 0), max(y1, 0), min(x2, width), min(y2, height)
    if seen == window_xyxy:
        return image[y1:y2, x1:x2]
    cut = np.full((y2 - y1, x2 - x1, 3), pad_val, dtype=np.uint8)
    if seen[0] < seen[2] and seen[1] < seen[3]:
        cut[seen[1] - y1 : seen[3] - y1, seen[0] - x1 : seen[2] - x1] = image[seen[1] : seen[3], seen[0] : seen[2]]
    return cut


def resize_new(image: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Resize, bilinear, into a new array."""
    if image.shape[:2] == size_hw:
        return image.copy()
    return cv2.resize(image, size_hw[::-1], interpolation=cv2.INTER_LINEAR)


def warp_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Return the upright boxes (G, 4) float64 around the warped corners of each box, not clipped."""
    if is_straight(matrix):
        (scale_x, _, x), (_, scale_y, y), _ = matrix.tolist()
        return boxes_xyxy * np.array((scale_x, scale_y) * 2) + np.array((x, y) * 2)
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)  # (G, corner, xy)
    corners = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def flip_boxes(boxes_xyxy: np.ndarray, width: int) -> np.ndarray:
    """Flip boxes (G, 4) of an image of ``width`` px horizontally."""
    flipped = boxes_xyxy.copy()
    flipped[:, 0::2] = width - boxes_xyxy[:, 2::-2]
    return flipped


def clip_boxes(boxes_xyxy: np.ndarray, frame: tuple[float, float, float, float]) -> np.ndarray:
    """Clip boxes (G, 4) to a frame (x1, y1, x2, y2); a box outside gets zero area on its edge."""
    clipped = np.maximum(boxes_xyxy, np.array(frame[:2] * 2, np.float64))
    return np.minimum(clipped, np.array(frame[2:] * 2, np.float64), out=clipped)


def mostly_seen(whole_wh: np.ndarray, seen_wh: np.ndarray, min_seen: float = 0.1) -> np.ndarray:
    """Return which boxes, given by width and height (2, G), keep over ``min_seen`` of their area after clipping."""
    return seen_wh[0] * seen_wh[1] > min_seen * whole_wh[0] * whole_wh[1]


def keep_boxes(
    whole_wh: np.ndarray, seen_wh: np.ndarray, min_side: float = 2.0, max_aspect: float = 100.0
) -> np.ndarray:
    """Return which warped boxes to keep, (G,) bool.

    A box is kept if both sides exceed ``min_side`` px, over a tenth of its area is visible, and its longer side is
    under ``max_aspect`` times the shorter.

    Args:
        whole_wh: (2, G), widths and heights of the boxes before clipping, at the scale of ``seen_wh``.
        seen_wh: (2, G), widths and heights after clipping.
    """
    short, long = np.minimum(*seen_wh), np.maximum(*seen_wh)
    return (short > min_side) & mostly_seen(whole_wh, seen_wh) & (long < max_aspect * short)


def box_sides(boxes_xyxy: np.ndarray) -> np.ndarray:
    """Return widths and heights: (G, 4) -> (2, G) float64."""
    return (boxes_xyxy[:, 2:].astype(np.float64) - boxes_xyxy[:, :2]).T
