"""Geometry and colour of the pipeline as pure functions on arrays: nothing here draws a random number.

**Pixels and edges.** Coordinates are those of edges, as in COCO: pixel (row r, column c) covers [c, c+1) x [r, r+1),
its centre is (c + 1/2, r + 1/2), a picture of W columns spans 0 <= x <= W, and the box of columns 3, 4 and 5 is
(3, 6). A point moves by one matrix with everything it lies on, so a box of whole pixels stays on its pixels.
``cv2.resize`` follows this convention; ``cv2.warpAffine`` counts from pixel centres, and :func:`warp_image` converts.

Letters: G boxes, H and W the sides of a picture. Pictures are (H, W, 3) uint8, boxes (G, 4) float xyxy in pixels,
matrices (3, 3) float64 acting on columns (x, y, 1).
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

INTERPOLATIONS = {'nearest': cv2.INTER_NEAREST, 'bilinear': cv2.INTER_LINEAR, 'area': cv2.INTER_AREA}


class LetterboxPlan(NamedTuple):
    """How a picture comes to lie in its canvas.

    ``resized_hw``: its new sides; ``pad_tblr``: pixels above, below, left and right of it; ``scale_wh``: new side by
    old, per axis, after rounding to whole pixels.
    """

    resized_hw: tuple[int, int]
    pad_tblr: tuple[int, int, int, int]
    scale_wh: tuple[float, float]


class Tile(NamedTuple):
    """One picture of a mosaic.

    ``source``: the part that is seen, ``target``: where on the canvas, both (x1, y1, x2, y2) in whole pixels and of
    one size; ``shift_xy``: what brings the picture's coordinates to those of the canvas.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    shift_xy: tuple[int, int]


def plan_letterbox(
    image_hw: tuple[int, int],
    size_hw: tuple[int, int],
    canvas_hw: tuple[int, int],
    *,
    centred: bool = False,
    allow_upscale: bool = True,
) -> LetterboxPlan:
    """Fit a picture into ``size_hw``, ratio kept, and place it in ``canvas_hw``, top left or centred.

    Should the canvas be smaller than the size, the picture fits the canvas. When centring leaves an odd pixel, it
    goes right or below.
    """
    (height, width), fit_hw = image_hw, np.minimum(size_hw, canvas_hw)
    ratio = min(fit_hw[0] / height, fit_hw[1] / width)
    if not allow_upscale:
        ratio = min(ratio, 1.0)
    # Half a pixel up, as mmcv rounds; a sliver keeps one pixel.
    resized_h, resized_w = max(int(height * ratio + 0.5), 1), max(int(width * ratio + 0.5), 1)
    spare_h, spare_w = canvas_hw[0] - resized_h, canvas_hw[1] - resized_w
    top, left = (spare_h // 2, spare_w // 2) if centred else (0, 0)
    return LetterboxPlan(
        (resized_h, resized_w), (top, spare_h - top, left, spare_w - left), (resized_w / width, resized_h / height)
    )


def letterbox_image(
    image: np.ndarray, plan: LetterboxPlan, pad_val: int, interpolation: str = 'bilinear'
) -> np.ndarray:
    """Resize and pad a picture as planned; always a new array."""
    if image.shape[:2] != plan.resized_hw:
        image = cv2.resize(image, plan.resized_hw[::-1], interpolation=INTERPOLATIONS[interpolation])
    return cv2.copyMakeBorder(image, *plan.pad_tblr, cv2.BORDER_CONSTANT, value=(pad_val,) * 3)


def letterbox_boxes(boxes_xyxy: np.ndarray, plan: LetterboxPlan) -> np.ndarray:
    """Move boxes (G, 4) with their picture and clip them to it."""
    (height, width), (top, _, left, _) = plan.resized_hw, plan.pad_tblr
    moved = boxes_xyxy * np.tile(plan.scale_wh, 2) + (left, top, left, top)
    return clip_boxes(moved, (left, top, left + width, top + height))


def place_tiles(
    images_hw: Sequence[tuple[int, int]], centre_xy: tuple[int, int], canvas_hw: tuple[int, int]
) -> list[Tile]:
    """Put four pictures around a point of the canvas, each with one corner on it: top left, top right, bottom left,
    bottom right. What reaches beyond the canvas is cut off."""
    tiles = []
    for quadrant, (height, width) in enumerate(images_hw):
        left = centre_xy[0] - (width if quadrant % 2 == 0 else 0)
        top = centre_xy[1] - (height if quadrant < 2 else 0)
        x1, y1 = max(left, 0), max(top, 0)
        x2, y2 = min(left + width, canvas_hw[1]), min(top + height, canvas_hw[0])
        tiles.append(Tile((x1 - left, y1 - top, x2 - left, y2 - top), (x1, y1, x2, y2), (left, top)))
    return tiles


def compose_tiles(
    images: Sequence[np.ndarray], tiles: Sequence[Tile], canvas_hw: tuple[int, int], pad_val: int
) -> np.ndarray:
    """Copy the seen part of each picture onto a canvas of ``pad_val``."""
    canvas = np.full((*canvas_hw, 3), pad_val, dtype=np.uint8)
    for image, tile in zip(images, tiles, strict=True):
        (sx1, sy1, sx2, sy2), (x1, y1, x2, y2) = tile.source, tile.target
        canvas[y1:y2, x1:x2] = image[sy1:sy2, sx1:sx2]
    return canvas


def affine_about_centre(
    input_hw: tuple[int, int],
    output_hw: tuple[int, int],
    *,
    scale: float = 1.0,
    degrees: float = 0.0,
    shear_xy: tuple[float, float] = (0.0, 0.0),
    shift_xy: tuple[float, float] = (0.0, 0.0),
) -> np.ndarray:
    """Matrix that turns and scales a picture about its centre, shears it, and lays the centre on that of the output.

    x' = c_out + s + Sh R (x - c_in) with R = scale * [[cos, -sin], [sin, cos]] (y points down, so a positive angle
    turns clockwise) and Sh = [[1, tan shear_x], [tan shear_y, 1]].

    Args:
        shear_xy: Degrees.
        shift_xy: s as a fraction of the output's width and height.
    """
    cos, sin = scale * math.cos(math.radians(degrees)), scale * math.sin(math.radians(degrees))
    shear = np.array([[1.0, math.tan(math.radians(shear_xy[0]))], [math.tan(math.radians(shear_xy[1])), 1.0]])
    linear = shear @ np.array([[cos, -sin], [sin, cos]])
    centre_in = np.array(input_hw[::-1]) / 2
    centre_out = np.array(output_hw[::-1]) * (0.5 + np.array(shift_xy))
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    matrix[:2, 2] = centre_out - linear @ centre_in
    return matrix


def warp_image(image: np.ndarray, matrix: np.ndarray, size_hw: tuple[int, int], pad_val: int) -> np.ndarray:
    """Warp a picture, bilinear, by a matrix between edge coordinates; what lies outside it becomes ``pad_val``."""
    # With u = x - 1/2 counted from pixel centres, x' = Ax + b reads u' = Au + b + A/2 - 1/2.
    centred = matrix[:2].copy()
    centred[:, 2] += matrix[:2, :2].sum(axis=1) / 2 - 0.5
    return cv2.warpAffine(image, centred, size_hw[::-1], flags=cv2.INTER_LINEAR, borderValue=(pad_val,) * 3)


def warp_boxes(boxes_xyxy: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Upright boxes (G, 4) float64 around the four warped corners of each box; not clipped."""
    corners = boxes_xyxy[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2).astype(np.float64)  # (G, corner, xy)
    corners = corners @ matrix[:2, :2].T + matrix[:2, 2]
    return np.concatenate((corners.min(axis=1), corners.max(axis=1)), axis=1)


def clip_boxes(boxes_xyxy: np.ndarray, frame: tuple[float, float, float, float]) -> np.ndarray:
    """Clip boxes (G, 4) to a frame (x1, y1, x2, y2); a box outside becomes one of no area on its edge."""
    low, high = np.array(frame[:2] * 2), np.array(frame[2:] * 2)
    return np.clip(boxes_xyxy, low, high)


def mostly_seen(whole_xyxy: np.ndarray, seen_xyxy: np.ndarray, min_seen: float = 0.1) -> np.ndarray:
    """Of which boxes (G, 4) clipping has left over ``min_seen`` of the area, and any area at all: (G,) bool."""
    return _wh(seen_xyxy).prod(axis=1) > min_seen * _wh(whole_xyxy).prod(axis=1)


def keep_boxes(
    whole_xyxy: np.ndarray, seen_xyxy: np.ndarray, min_side: float = 2.0, max_aspect: float = 100.0
) -> np.ndarray:
    """Which boxes are still worth showing to the network: (G,) bool.

    A box stays if both its sides are over ``min_side`` pixels, over a tenth of its area is seen, and its longer side
    is under ``max_aspect`` times the shorter.

    Args:
        whole_xyxy: (G, 4), the boxes before clipping, at the scale of ``seen_xyxy``.
        seen_xyxy: (G, 4), the same boxes clipped.
    """
    seen_wh = _wh(seen_xyxy)
    short, long = seen_wh.min(axis=1), seen_wh.max(axis=1)
    return (short > min_side) & mostly_seen(whole_xyxy, seen_xyxy) & (long < max_aspect * short)


def _wh(boxes_xyxy: np.ndarray) -> np.ndarray:
    return boxes_xyxy[:, 2:].astype(np.float64) - boxes_xyxy[:, :2]


def hsv_tables(gain_hsv: Sequence[float]) -> np.ndarray:
    """Look-up tables (1, 256, 3) uint8 that multiply hue (mod 180), saturation and value (clipped)."""
    values = np.arange(256)
    hue, saturation, value = (np.rint(values * gain) for gain in gain_hsv)
    tables = np.stack((hue % 180, saturation.clip(0, 255), value.clip(0, 255)), axis=-1)
    return tables.astype(np.uint8)[None]


def recolour(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Send the hue, saturation and value of a BGR picture through look-up tables (1, 256, 3)."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    return cv2.cvtColor(cv2.LUT(hsv, tables), cv2.COLOR_HSV2BGR)


def blend(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """``share * first + (1 - share) * second``, rounded to uint8; share in [0, 1]."""
    return cv2.addWeighted(first, share, second, 1 - share, 0)
