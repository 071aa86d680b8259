"""The four images of a mosaic: their places on the canvas, and the affine of the canvas.

Coordinates as in :mod:`.functional`. Letters: G boxes, T images.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np

from mmyolo_ext.datasets.transforms import functional as F
from mmyolo_ext.datasets.transforms.annotations import Annotations, join


class Tile(NamedTuple):
    """Place of one image in a mosaic.

    ``target``: place of the visible part on the canvas, (x1, y1, x2, y2) in whole pixels; ``shift_xy``: offset from
    coordinates of the image to those of the canvas.
    """

    target: tuple[int, int, int, int]
    shift_xy: tuple[int, int]


def place_tiles(
    images_hw: Sequence[tuple[int, int]], centre_xy: tuple[int, int], canvas_hw: tuple[int, int]
) -> list[Tile]:
    """Place four images around a point of the canvas, each with one corner on it, and crop them to the canvas.

    The order is top left, top right, bottom left, bottom right.
    """
    tiles = []
    for quadrant, (height, width) in enumerate(images_hw):
        left = centre_xy[0] - (width if quadrant % 2 == 0 else 0)
        top = centre_xy[1] - (height if quadrant < 2 else 0)
        x2, y2 = min(left + width, canvas_hw[1]), min(top + height, canvas_hw[0])
        tiles.append(Tile((max(left, 0), max(top, 0), x2, y2), (left, top)))
    return tiles


def compose_tiles(
    images: Sequence[np.ndarray], tiles: Sequence[Tile], window_xyxy: tuple[int, int, int, int], pad_val: int
) -> np.ndarray:
    """Compose a window of the canvas from the visible parts of the images, on a background of ``pad_val``."""
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
    """Return the canvas under an affine, (H, W, 3), without making the canvas: each pixel is interpolated once.

    If the output shows a window of whole pixels and no image is resized, the window is composed and resized.
    Otherwise each image is warped into its place by the product of its resize, its shift and the affine.

    Args:
        images: (T) as decoded.
        tiles: (T) of the images at their new size.
        resized_hw: (T) new sizes.
        matrix: (3, 3) from the canvas to the output.
        size_hw: Of the output.
        pad_val: Grey level outside the images.
    """
    window = F.shown_window(matrix, size_hw)
    if window is not None and all(image.shape[:2] == hw for image, hw in zip(images, resized_hw, strict=True)):
        composed = compose_tiles(images, tiles, window, pad_val)
        return composed if composed.shape[:2] == size_hw else F.resize_new(composed, size_hw)
    output = np.full((*size_hw, 3), pad_val, dtype=np.uint8)
    for image, tile, hw in zip(images, tiles, resized_hw, strict=True):
        _warp_tile(image, tile, hw, matrix, output)
    return output


def _warp_tile(
    image: np.ndarray, tile: Tile, resized_hw: tuple[int, int], matrix: np.ndarray, output: np.ndarray
) -> None:
    """Warp the visible part of one image into ``output``, in place."""
    scale_x, scale_y = resized_hw[1] / image.shape[1], resized_hw[0] / image.shape[0]
    # output pixels whose centres lie in the upright box around the warped target
    x1, y1, x2, y2 = (math.ceil(edge - 0.5) for edge in F.warp_boxes(np.array([tile.target], np.float64), matrix)[0])
    x1, y1, x2, y2 = max(x1, 0), max(y1, 0), min(x2, output.shape[1]), min(y2, output.shape[0])
    if x1 >= x2 or y1 >= y2:
        return
    # the visible part of the image as decoded
    left, top, right, bottom = np.subtract(tile.target, tile.shift_xy * 2) / ((scale_x, scale_y) * 2)
    left, top = int(left), int(top)
    # With BORDER_TRANSPARENT, OpenCV writes only pixels that have a neighbour above and to the left. A replicated
    # border there covers the half pixel around the outer centres; otherwise padding shows between the images.
    part = cv2.copyMakeBorder(
        image[top : math.ceil(bottom), left : math.ceil(right)], 1, 0, 1, 0, cv2.BORDER_REPLICATE
    )
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
        F.pixel_matrix(to_region),
        (x2 - x1, y2 - y1),
        dst=output[y1:y2, x1:x2],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_TRANSPARENT,
    )


def tile_annotations(annotations: Sequence[Annotations], tiles: Sequence[Tile]) -> Annotations:
    """Return the boxes of all images on the canvas, clipped to their tiles, if over a tenth of them is visible."""
    whole, seen = _boxes_on_canvas(annotations, tiles, [(1.0, 1.0)] * len(tiles))
    # Sides and aspect ratio are checked after the affine, at the scale of the network's input.
    return join(annotations).moved(seen, F.mostly_seen(F.box_sides(whole), F.box_sides(seen)))


def warp_tile_annotations(
    annotations: Sequence[Annotations],
    tiles: Sequence[Tile],
    scales_wh: Sequence[tuple[float, float]],
    matrix: np.ndarray,
    size_hw: tuple[int, int],
) -> Annotations:
    """Return the boxes of all images under an affine of the canvas, clipped to their tiles and to the output.

    Args:
        annotations: (T), in coordinates of the images as decoded.
        tiles: (T) of the images at their new size.
        scales_wh: (T, 2) new over old width and height of the images.
        matrix: (3, 3) from the canvas to the output.
        size_hw: Of the output.
    """
    whole, shown = _boxes_on_canvas(annotations, tiles, scales_wh)
    kept = F.mostly_seen(F.box_sides(whole), F.box_sides(shown))
    whole = F.warp_boxes(shown, matrix)
    seen = F.clip_boxes(whole, (0, 0, *size_hw[::-1]))
    return join(annotations).moved(seen, kept & F.keep_boxes(F.box_sides(whole), F.box_sides(seen)))


def _boxes_on_canvas(
    annotations: Sequence[Annotations], tiles: Sequence[Tile], scales_wh: Sequence[tuple[float, float]]
) -> tuple[np.ndarray, np.ndarray]:
    """Return all boxes on the canvas, whole and clipped to their tiles, each (G, 4) float64."""
    places = [
        (*scale_wh * 2, *tile.shift_xy * 2, *tile.target[:2] * 2, *tile.target[2:] * 2)
        for scale_wh, tile in zip(scales_wh, tiles, strict=True)
    ]  # (T, 16)
    counts = [len(part.labels) for part in annotations]
    scale, shift, low, high = np.array(places, np.float64).repeat(counts, axis=0).reshape(-1, 4, 4).swapaxes(0, 1)
    whole = np.concatenate([part.boxes_xyxy for part in annotations]) * scale + shift
    return whole, np.minimum(np.maximum(whole, low), high)
