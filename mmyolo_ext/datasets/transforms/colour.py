"""HSV jitter, and pure functions on the colours of images (H, W, 3) uint8."""

from collections.abc import Sequence

import cv2
import numpy as np

from mmyolo_ext.datasets.transforms.annotations import Transform
from mmyolo_ext.datasets.transforms.functional import check_range
from mmyolo_ext.registry import TRANSFORMS

GAIN_STEPS = 1024
HUES = 180  # in OpenCV, 2 degrees each


def round_gains(gains: np.ndarray) -> np.ndarray:
    """Round towards 1 to multiples of 1/1024, whose float32 products with bytes are exact."""
    return 1 + np.trunc((gains - 1) * GAIN_STEPS) / GAIN_STEPS


def scale_hsv(image: np.ndarray, gain_hsv: Sequence[float]) -> np.ndarray:
    """Multiply hue (mod 180), saturation and value (clipped at 255) of a BGR image; halves are rounded to even."""
    hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
    # OpenCV multiplies planes faster than interleaved channels.
    planes = list(np.empty((3, *image.shape[:2]), np.uint8))
    cv2.split(hsv, planes)
    for plane, gain, levels in zip(planes, map(float, gain_hsv), (HUES, 256, 256), strict=True):
        if levels == 256 or round((levels - 1) * gain) < 256:  # OpenCV takes hues above 180 modulo 180
            cv2.convertScaleAbs(plane, dst=plane, alpha=gain)
        else:
            cv2.LUT(plane, (np.rint(np.arange(256) * gain) % levels).astype(np.uint8), dst=plane)
    cv2.merge(planes, dst=hsv)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)


@TRANSFORMS.register_module()
class HSVJitter(Transform):
    """Multiply hue, saturation and value each by a factor drawn from [1 - a, 1 + a].

    Hue is cyclic, saturation and value are clipped. Boxes do not change.

    Args:
        hue: a for the hue, in [0, 1].
        saturation: a for the saturation, in [0, 1].
        value: a for the value, in [0, 1].

    Raises:
        ValueError: On an argument out of its range.
    """

    def __init__(self, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4) -> None:
        self.hue = check_range('hue', hue, 0, 1)
        self.saturation = check_range('saturation', saturation, 0, 1)
        self.value = check_range('value', value, 0, 1)

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        """Draw the factors (3,) of hue, saturation and value, multiples of 1/1024."""
        return round_gains(1 + rng.uniform(-1, 1, size=3) * np.array([self.hue, self.saturation, self.value]))

    def transform(self, results: dict) -> dict:
        """Recolour the image."""
        return {**results, 'img': scale_hsv(self.read_image(results), self.draw(np.random))}
