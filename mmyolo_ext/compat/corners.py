"""Boxes for the NMS family, and their IoU to the last bit of mmcv's compiled CPU ops.

A threshold decides on a float32 IoU, so the order of its operations matters. It stands here once.
"""

from typing import NamedTuple

import numpy as np


class Corners(NamedTuple):
    """N boxes as five float32 arrays of length N."""

    x1: np.ndarray
    y1: np.ndarray
    x2: np.ndarray
    y2: np.ndarray
    area: np.ndarray

    @classmethod
    def of(cls, boxes_xyxy: np.ndarray, offset: np.float32) -> 'Corners':
        """From (N, 4), rounded to float32. ``offset`` is 1 where x2 and y2 are the last pixel inside, else 0."""
        x1, y1, x2, y2 = np.ascontiguousarray(boxes_xyxy.T, dtype=np.float32)
        return cls(x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset))

    def take(self, index: np.ndarray | slice) -> 'Corners':
        return Corners(*(side[index] for side in self))


def iou_matrix(a: Corners, b: Corners, offset: np.float32) -> np.ndarray:
    """IoU of each box of ``a`` (rows) with each of ``b``, float32. Two boxes without area give NaN."""
    width = np.minimum(a.x2[:, None], b.x2)
    width -= np.maximum(a.x1[:, None], b.x1)
    height = np.minimum(a.y2[:, None], b.y2)
    height -= np.maximum(a.y1[:, None], b.y1)
    if offset:
        width += offset
        height += offset
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    common = np.multiply(width, height, out=width)
    union = np.add(a.area[:, None], b.area, out=height)
    union -= common
    return np.divide(common, union, out=common)
