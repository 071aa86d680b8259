"""Jitter of hue, saturation and value."""

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image
from .arguments import check_range
from .colour import recolour, round_gains


@TRANSFORMS.register_module()
class HSVJitter(BaseTransform):
    """Multiply hue, saturation and value each by a factor drawn from [1 - a, 1 + a].

    Hue goes round its circle, saturation and value are clipped. Boxes are not touched.

    Args:
        hue, saturation, value: The a of each, in [0, 1].

    Raises:
        ValueError: On an argument out of its range.
    """

    def __init__(self, hue: float = 0.015, saturation: float = 0.7, value: float = 0.4) -> None:
        self.hue = check_range('hue', hue, 0, 1)
        self.saturation = check_range('saturation', saturation, 0, 1)
        self.value = check_range('value', value, 0, 1)
        self._ranges = np.array([hue, saturation, value])

    def draw(self, rng: np.random.RandomState) -> np.ndarray:
        """Factors (3,) of hue, saturation and value, multiples of 1/1024."""
        return round_gains(1 + rng.uniform(-1, 1, size=3) * self._ranges)

    def transform(self, results: dict) -> dict:
        image = check_image(results, 'HSVJitter')
        return {**results, 'img': recolour(image, self.draw(np.random))}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(hue={self.hue}, saturation={self.saturation}, value={self.value})'
