"""Colour of the pictures, (H, W, 3) uint8, as pure functions: nothing here draws a random number."""

from collections.abc import Sequence

import cv2
import numpy as np

GAIN_STEPS = 1024
HUES = 180  # of OpenCV, 2 degrees each


def round_gains(gains: np.ndarray) -> np.ndarray:
    """Towards 1, to multiples of 1/1024: with bytes they multiply exactly in float32, so that it rounds as float64."""
    return 1 + np.trunc((gains - 1) * GAIN_STEPS) / GAIN_STEPS


def recolour(image: np.ndarray, gain_hsv: Sequence[float]) -> np.ndarray:
    """Multiply hue (mod 180), saturation and value (clipped at 255) of a BGR picture.

    Halves are rounded to even, products being those of :func:`round_gains`.
    """
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    # Plane by plane, which OpenCV multiplies faster than interleaved channels or a look into a table.
    planes = list(np.empty((3, *image.shape[:2]), np.uint8))
    cv2.split(hsv, planes)
    for plane, gain, levels in zip(planes, map(float, gain_hsv), (HUES, 256, 256), strict=True):
        _multiply(plane, gain, levels)
    cv2.merge(planes, dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def _multiply(plane: np.ndarray, gain: float, levels: int) -> None:
    """Multiply a plane, in place; hues of a turn and more mean the same to OpenCV as those below."""
    if levels == 256 or round((levels - 1) * gain) < 256:
        cv2.convertScaleAbs(plane, dst=plane, alpha=gain)
    else:  # beyond what a byte holds
        cv2.LUT(plane, (np.rint(np.arange(256) * gain) % levels).astype(np.uint8), dst=plane)


def blend(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """``share * first + (1 - share) * second``, rounded to uint8; share in [0, 1]."""
    return cv2.addWeighted(first, share, second, 1 - share, 0)
