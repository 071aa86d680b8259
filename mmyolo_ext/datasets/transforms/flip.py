"""Mirror left and right."""

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, read_annotations, replace_image
from .arguments import check_range
from .functional import flip_boxes


@TRANSFORMS.register_module()
class HorizontalFlip(BaseTransform):
    """Mirror the picture and its boxes left and right.

    Differs from mmdet's ``RandomFlip`` on purpose: the pixels are written anew in their order, not shown through a
    view that runs backwards, which each later step would pay for. Writes ``flip`` and ``flip_direction`` as it does.

    Args:
        prob: Probability of a flip.

    Raises:
        ValueError: On an argument out of its range.
    """

    def __init__(self, prob: float = 0.5) -> None:
        self.prob = check_range('prob', prob, 0, 1)

    def draw(self, rng: np.random.RandomState) -> bool:
        """Whether to mirror."""
        return rng.uniform() < self.prob

    def transform(self, results: dict) -> dict:
        if not self.draw(np.random):
            return {**results, 'flip': False, 'flip_direction': None}
        image, annotations = check_image(results, 'HorizontalFlip'), read_annotations(results)
        flipped = annotations.moved(flip_boxes(annotations.boxes_xyxy, image.shape[1]))
        results = replace_image(results, cv2.flip(image, 1), flipped)
        return {**results, 'flip': True, 'flip_direction': 'horizontal'}

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob})'
