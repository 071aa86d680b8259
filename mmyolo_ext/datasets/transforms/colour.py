"""Colour of the pictures, (H, W, 3) uint8, as pure functions: nothing here draws a random number."""

from collections.abc import Sequence

import cv2
import numpy as np

BYTES = np.arange(256.0)


def hsv_tables(gain_hsv: Sequence[float]) -> np.ndarray:
    """Look-up tables (3, 256) uint8 that multiply hue (mod 180), saturation and value (clipped)."""
    tables = np.rint(np.outer(gain_hsv, BYTES))
    tables[0] %= 180
    return np.minimum(tables, 255).astype(np.uint8)


def recolour(image: np.ndarray, tables: np.ndarray) -> np.ndarray:
    """Send the hue, saturation and value of a BGR picture through look-up tables (3, 256)."""
    # OpenCV is faster with three tables on three planes than with one table of three columns.
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    planes = cv2.split(hsv)
    for plane, table in zip(planes, tables, strict=True):
        cv2.LUT(plane, table, dst=plane)
    cv2.merge(planes, dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def blend(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """``share * first + (1 - share) * second``, rounded to uint8; share in [0, 1]."""
    return cv2.addWeighted(first, share, second, 1 - share, 0)
