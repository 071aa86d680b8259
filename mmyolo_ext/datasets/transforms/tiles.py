"""The four pictures of a mosaic: where they lie on the canvas, and what an affine of the canvas shows of them.

Coordinates as in :mod:`.functional`. Letters: G boxes, T pictures.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import cv2
import numpy as np

from .annotations import Annotations, join
from .functional import (
    box_sides,
    clip_boxes,
    is_straight,
    keep_boxes,
    mostly_seen,
    pixel_matrix,
    plan_letterbox,
    resize_new,
    shown_window,
    warp_boxes,
)


class Tile(NamedTuple):
    """One picture of a mosaic.

    ``source``: the part that is seen, ``target``: where on the canvas, both (x1, y1, x2, y2) in whole pixels and of
    one size; ``shift_xy``: what brings the picture's coordinates to those of the canvas.
    """

    source: tuple[int, int, int, int]
    target: tuple[int, int, int, int]
    shift_xy: tuple[int, int]


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


@lru_cache(maxsize=4096)
def fitted_hw(image_hw: tuple[int, int], size_hw: tuple[int, int]) -> tuple[int, int]:
    """The sides of a picture fitted into ``size_hw``, ratio kept, larger or smaller."""
    return plan_letterbox(image_hw, size_hw, size_hw).resized_hw


def compose_tiles(
    images: Sequence[np.ndarray], tiles: Sequence[Tile], window_xyxy: tuple[int, int, int, int], pad_val: int
) -> np.ndarray:
    """What a window of the canvas shows: the seen part of each picture, on ``pad_val``; no other part is touched."""
    left, top, right, bottom = window_xyxy
    canvas = np.empty((bottom - top, right - left, 3), dtype=np.uint8)
    canvas.fill(pad_val)
    for image, tile in zip(images, tiles, strict=True):
        (x1, y1, x2, y2), (from_x, from_y) = tile.target, tile.shift_xy
        x1, y1, x2, y2 = max(x1, left), max(y1, top), min(x2, right), min(y2, bottom)
        if x1 < x2 and y1 < y2:
            part = image[y1 - from_y : y2 - from_y, x1 - from_x : x2 - from_x]
            canvas[y1 - top : y2 - top, x1 - left : x2 - left] = part
    return canvas


def warp_tiles(
    images: Sequence[np.ndarray],
    tiles: Sequence[Tile],
    resized_hw: Sequence[tuple[int, int]],
    matrix: np.ndarray,
    size_hw: tuple[int, int],
    pad_val: int,
) -> np.ndarray:
    """The canvas under an affine, without the canvas: (H, W, 3), each pixel interpolated once.

    Where the output shows a window of whole pixels and no picture is resized, the window is composed and resized.
    Else each picture is warped straight into its place by the product of its resize, its shift and the affine.

    Args:
        images: (T) as decoded.
        tiles: (T) of the pictures at their new size.
        resized_hw: (T) their new sizes.
        matrix: (3, 3) from the canvas to the output.
    """
    window = shown_window(matrix, size_hw)
    if window is not None and all(image.shape[:2] == hw for image, hw in zip(images, resized_hw, strict=True)):
        composed = compose_tiles(images, tiles, window, pad_val)
        return composed if composed.shape[:2] == size_hw else resize_new(composed, size_hw)
    output = np.full((*size_hw, 3), pad_val, dtype=np.uint8)
    for image, tile, hw in zip(images, tiles, resized_hw, strict=True):
        _warp_tile(image, tile, hw, matrix, output)
    return output


def _warp_tile(
    image: np.ndarray, tile: Tile, resized_hw: tuple[int, int], matrix: np.ndarray, output: np.ndarray
) -> None:
    """Warp the seen part of one picture into ``output``, in place."""
    scale_x, scale_y = resized_hw[1] / image.shape[1], resized_hw[0] / image.shape[0]
    x1, y1, x2, y2 = _touched_pixels(tile.target, matrix, output.shape[:2])
    if x1 >= x2 or y1 >= y2:
        return
    left, top = int(tile.source[0] / scale_x), int(tile.source[1] / scale_y)
    right, bottom = math.ceil(tile.source[2] / scale_x), math.ceil(tile.source[3] / scale_y)
    # OpenCV writes what has a neighbour above to the left. One more there, repeated, and the picture covers the half
    # pixel around its outer centres on all sides; without, grey would show between the pictures.
    part = cv2.copyMakeBorder(image[top:bottom, left:right], 1, 0, 1, 0, cv2.BORDER_REPLICATE)
    to_canvas = np.array(
        [
            [scale_x, 0, (left - 1) * scale_x + tile.shift_xy[0]],
            [0, scale_y, (top - 1) * scale_y + tile.shift_xy[1]],
            [0, 0, 1],
        ]
    )
    to_region = matrix @ to_canvas
    to_region[:2, 2] -= x1, y1
    cv2.warpAffine(
        part,
        pixel_matrix(to_region),
        (x2 - x1, y2 - y1),
        dst=output[y1:y2, x1:x2],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def _touched_pixels(
    target: tuple[int, int, int, int], matrix: np.ndarray, size_hw: tuple[int, int]
) -> tuple[int, int, int, int]:
    """The rectangle of output pixels whose centres lie in the upright box around the warped ``target``."""
    (box,) = warp_boxes(np.array([target], np.float64), matrix)
    x1, y1, x2, y2 = (math.ceil(edge - 0.5) for edge in box)
    return max(x1, 0), max(y1, 0), min(x2, size_hw[1]), min(y2, size_hw[0])


def tile_annotations(annotations: Sequence[Annotations], tiles: Sequence[Tile]) -> Annotations:
    """The boxes of all pictures on the canvas, clipped to their tiles; those of which over a tenth is seen."""
    whole, seen = _boxes_on_canvas(annotations, tiles)
    # Sides and aspect are judged at the network's scale, by the affine that follows.
    return join(annotations).moved(seen.reshape(4, -1).T, mostly_seen(_sides(whole), _sides(seen)))


def warp_annotations(annotations: Annotations, matrix: np.ndarray, size_hw: tuple[int, int]) -> Annotations:
    """The boxes under an affine, clipped to the output; those worth showing (:func:`keep_boxes`)."""
    whole = warp_boxes(annotations.boxes_xyxy, matrix)
    seen = clip_boxes(whole, (0, 0, *size_hw[::-1]))
    return annotations.moved(seen, keep_boxes(box_sides(whole), box_sides(seen)))


def warp_tile_annotations(
    annotations: Sequence[Annotations],
    tiles: Sequence[Tile],
    scales_wh: Sequence[tuple[float, float]],
    matrix: np.ndarray,
    size_hw: tuple[int, int],
) -> Annotations:
    """:func:`tile_annotations`, then :func:`warp_annotations`.

    Args:
        annotations: (T), in coordinates of the pictures as decoded.
        scales_wh: (T, 2) new sides of the pictures by old.
    """
    whole, shown = _boxes_on_canvas(annotations, tiles, scales_wh)
    kept = mostly_seen(_sides(whole), _sides(shown))
    whole = _warp(shown, matrix)
    seen = np.minimum(np.maximum(whole, 0), np.array(size_hw[::-1], np.float64)[:, None])
    kept &= keep_boxes(_sides(whole), _sides(seen))
    return join(annotations).moved(seen.reshape(4, -1).T, kept)


def _boxes_on_canvas(
    annotations: Sequence[Annotations], tiles: Sequence[Tile], scales_wh: Sequence[tuple[float, float]] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """All boxes on the canvas, whole and clipped to their tiles, each (corner 2, xy 2, G) float64.

    In rows, which NumPy adds up several times faster than columns as short as these.
    """
    scales_wh = scales_wh or [(1.0, 1.0)] * len(tiles)
    places = [
        (*scale_wh, *tile.shift_xy, *tile.target) for scale_wh, tile in zip(scales_wh, tiles, strict=True)
    ]  # (T, 8)
    counts = [len(part.labels) for part in annotations]
    scale, shift, low, high = np.array(places, np.float64).T.repeat(counts, axis=1).reshape(4, 2, -1)
    whole = np.concatenate([part.boxes_xyxy for part in annotations]).T.reshape(2, 2, -1) * scale
    whole += shift
    seen = np.maximum(whole, low)
    return whole, np.minimum(seen, high, out=seen)


def _warp(corners: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """:func:`warp_boxes` on (corner 2, xy 2, G)."""
    if is_straight(matrix):
        (scale_x, _, x), (_, scale_y, y), _ = matrix.tolist()
        return corners * np.array(((scale_x,), (scale_y,))) + np.array(((x,), (y,)))
    return warp_boxes(corners.reshape(4, -1).T, matrix).T.reshape(2, 2, -1)


def _sides(corners: np.ndarray) -> np.ndarray:
    """(corner 2, xy 2, G) -> widths and heights (2, G)."""
    return corners[1] - corners[0]
