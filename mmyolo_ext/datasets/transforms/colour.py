"""Colour of the pictures, (H, W, 3) uint8, as pure functions: nothing here draws a random number."""

from collections.abc import Sequence

import cv2
import numpy as np

GAIN_STEPS = 1024
HUES = np.arange(256.0)


def round_gains(gains: np.ndarray) -> np.ndarray:
    """Towards 1, to multiples of 1/1024: with bytes they multiply exactly in float32, so that it rounds as float64."""
    return 1 + np.trunc((gains - 1) * GAIN_STEPS) / GAIN_STEPS


def recolour(image: np.ndarray, gain_hsv: Sequence[float]) -> np.ndarray:
    """Multiply hue (mod 180), saturation and value (clipped at 255) of a BGR picture.

    Halves are rounded to even, products being those of :func:`round_gains`.
    """
    hue_gain, saturation_gain, value_gain = map(float, gain_hsv)
    hue_table = (np.rint(HUES * hue_gain) % 180).astype(np.uint8)
    # Plane by plane, where OpenCV is faster than with tables of three columns, and a product is faster than a table.
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    planes = hue, saturation, value = cv2.split(hsv)
    cv2.LUT(hue, hue_table, dst=hue)
    cv2.convertScaleAbs(saturation, dst=saturation, alpha=saturation_gain)
    cv2.convertScaleAbs(value, dst=value, alpha=value_gain)
    cv2.merge(planes, dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


def blend(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """``share * first + (1 - share) * second``, rounded to uint8; share in [0, 1]."""
    return cv2.addWeighted(first, share, second, 1 - share, 0)
