"""Two pictures seen through each other."""

from collections.abc import Sized

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, join, read_annotations, replace_image
from .arguments import check_range
from .colour import blend


@TRANSFORMS.register_module()
class MixUp(BaseTransform):
    """Blend a picture with another of the same size and keep the boxes of both (mixup, arXiv 1710.09412).

    img = r * img + (1 - r) * other with r ~ Beta(alpha, alpha); boxes carry no weight. Put it after ``MosaicAffine``
    into one ``MixDataset``: its partner is then a finished mosaic too. A sample without a blend passes unchanged.

    Args:
        prob: Probability of a blend.
        alpha: Of the Beta distribution; 32 keeps r within about 0.5 +- 0.15.

    Raises:
        ValueError: On an argument out of its range, outside a ``MixDataset``, or if the sizes differ.
    """

    mixes_images = True

    def __init__(self, prob: float = 0.1, alpha: float = 32.0) -> None:
        self.prob = check_range('prob', prob, 0, 1)
        if not alpha > 0:
            raise ValueError(f'alpha must be above 0, got {alpha!r}')
        self.alpha = alpha

    def get_indexes(self, dataset: Sized) -> list[int]:
        """The partner, one index of ``dataset``; none when the blend is not drawn."""
        return self.draw_partners(np.random, len(dataset))

    def draw_partners(self, rng: np.random.RandomState, num_images: int) -> list[int]:
        if rng.uniform() >= self.prob:
            return []
        return [int(rng.randint(num_images))]

    def draw(self, rng: np.random.RandomState) -> float:
        """The share of the picture itself, in (0, 1)."""
        return rng.beta(self.alpha, self.alpha)

    def transform(self, results: dict) -> dict:
        if 'mix_results' not in results:
            raise ValueError('MixUp found no mix_results: put it into the pipeline of an mmyolo_ext.MixDataset')
        if not results['mix_results']:
            return results
        (partner,) = results['mix_results']
        image, other = check_image(results, 'MixUp'), check_image(partner, 'MixUp')
        if image.shape != other.shape:
            raise ValueError(
                f'MixUp got pictures of {image.shape[:2]} and {other.shape[:2]} (height, width); they must be of one '
                'size: put it into an mmyolo_ext.MixDataset behind MosaicAffine'
            )
        annotations = join([read_annotations(results), read_annotations(partner)])
        return replace_image(results, blend(image, other, self.draw(np.random)), annotations)

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, alpha={self.alpha})'
