"""Transforms that mix several images: mosaic, mosaic and affine in one, mixup."""

from collections.abc import Sequence, Sized

import cv2
import numpy as np

from mmyolo_ext.datasets.transforms.annotations import Transform, join, replace_image
from mmyolo_ext.datasets.transforms.functional import check_range, check_size_hw, plan_letterbox
from mmyolo_ext.datasets.transforms.geometry import RandomAffine
from mmyolo_ext.datasets.transforms.tiles import (
    Tile,
    compose_tiles,
    place_tiles,
    tile_annotations,
    warp_tile_annotations,
    warp_tiles,
)
from mmyolo_ext.registry import TRANSFORMS


class MixingTransform(Transform):
    """Base of the transforms that take partners from a dataset that mixes images, with a probability ``prob``."""

    mixes_images = True
    num_partners = 1

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw the partners, indices of ``dataset``; none if the sample is not to be mixed."""
        chance, *places = np.random.random_sample(1 + self.num_partners).tolist()
        return [int(place * len(dataset)) for place in places] if chance < self.prob else []

    def partners(self, results: dict) -> list[dict]:
        """Return the partners of a sample, none if it is not to be mixed.

        Raises:
            ValueError: Outside a dataset that mixes images.
        """
        if 'mix_results' not in results:
            raise ValueError(
                f'{type(self).__name__} found no mix_results: put it into the pipeline of mmyolo_ext.SeededDataset or '
                'MixDataset'
            )
        return results['mix_results']


@TRANSFORMS.register_module()
class Mosaic(MixingTransform):
    """Place the image and three others around a point of a canvas of twice ``size`` (YOLOv4, arXiv 2004.10934 3.3).

    The point is drawn uniformly from the whole pixels in [S/2, 3S/2] on each axis. The image itself lies at the top
    left, the others top right, bottom left and bottom right, each with one corner on the point; parts beyond the
    canvas are cropped and the rest is filled with ``pad_val``. Boxes are clipped to the visible part of their image
    and dropped if that is a tenth of their area or less. :class:`RandomAffine` then crops the input out of the centre
    of the canvas.

    Needs a dataset that mixes images (``MixDataset``, ``mmdet.MultiImageMixDataset``), which fetches the partners
    chosen by :meth:`get_indexes`. A sample without a mosaic passes unchanged.

    Args:
        size: S, (height, width) of the network's input or the side of a square. Resize images to it beforehand.
        prob: Probability of a mosaic.
        pad_val: Grey level of the empty canvas.

    Raises:
        ValueError: On an argument out of its range, or outside a dataset that mixes images.
    """

    num_partners = 3

    def __init__(self, size: int | Sequence[int], prob: float = 1.0, pad_val: int = 114) -> None:
        self.size_hw = check_size_hw('size', size)
        self.prob = check_range('prob', prob, 0, 1)
        self.pad_val = check_range('pad_val', pad_val, 0, 255)

    def draw(self, rng: np.random.RandomState) -> tuple[int, int]:
        """Draw the centre (x, y), whole pixels of the canvas."""
        places = zip(rng.random_sample(2).tolist(), self.size_hw[::-1], strict=True)
        x, y = ((side + 1) // 2 + int(place * (3 * side // 2 + 1 - (side + 1) // 2)) for place, side in places)
        return x, y

    def transform(self, results: dict) -> dict:
        """Compose the canvas."""
        partners = self.partners(results)
        if not partners:
            return results
        images, annotations = zip(*map(self.read, [results, *partners]), strict=True)
        canvas_hw = (2 * self.size_hw[0], 2 * self.size_hw[1])
        tiles = place_tiles([image.shape[:2] for image in images], self.draw(np.random), canvas_hw)
        canvas = compose_tiles(images, tiles, (0, 0, *canvas_hw[::-1]), self.pad_val)
        return replace_image(results, canvas, tile_annotations(annotations, tiles))


@TRANSFORMS.register_module()
class MosaicAffine(Mosaic):
    """:class:`Mosaic` and :class:`RandomAffine` in one pass over the pixels, without the canvas of twice the size.

    Draws the same numbers in the same order as the two, and gives the same boxes and, up to interpolation, the same
    pixels. Images are fitted into ``size``, aspect ratio kept; no resize is needed before. Shrink larger ones first
    (:class:`CachedDataset` does so), to avoid aliasing.

    If no mosaic is drawn, and after :meth:`stop_mixing`, the affine is applied to the image alone.

    Args:
        size: (height, width) of the output, or the side of a square.
        prob: Probability of a mosaic.
        scale: As in :class:`RandomAffine`.
        translate: As in :class:`RandomAffine`.
        degrees: As in :class:`RandomAffine`.
        shear: As in :class:`RandomAffine`.
        pad_val: Grey level outside the images.

    Raises:
        ValueError: On an argument out of its range, or outside a dataset that mixes images.
    """

    def __init__(
        self,
        size: int | Sequence[int],
        prob: float = 1.0,
        scale: float = 0.5,
        translate: float = 0.1,
        degrees: float = 0.0,
        shear: float = 0.0,
        pad_val: int = 114,
    ) -> None:
        super().__init__(size, prob, pad_val)
        self.affine = RandomAffine(size, scale, translate, degrees, shear, pad_val)
        self._mixes = True

    def stop_mixing(self) -> None:
        """Make no more mosaics."""
        self._mixes = False

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw the partners, as in :class:`Mosaic`; none after :meth:`stop_mixing`."""
        return super().get_indexes(dataset) if self._mixes else []

    def transform(self, results: dict) -> dict:
        """Compose and warp the images."""
        images, annotations = zip(*map(self.read, [results, *self.partners(results)]), strict=True)
        plans = [plan_letterbox(image.shape[:2], self.size_hw, self.size_hw) for image in images]
        resized_hw = [plan.resized_hw for plan in plans]
        if len(images) > 1:
            canvas_hw = (2 * self.size_hw[0], 2 * self.size_hw[1])
            tiles = place_tiles(resized_hw, self.draw(np.random), canvas_hw)
        else:
            canvas_hw = resized_hw[0]
            tiles = [Tile((0, 0, *canvas_hw[::-1]), (0, 0))]
        matrix = self.affine.draw(np.random, canvas_hw)
        image = warp_tiles(images, tiles, resized_hw, matrix, self.size_hw, self.pad_val)
        boxes = warp_tile_annotations(annotations, tiles, [plan.scale_wh for plan in plans], matrix, self.size_hw)
        return replace_image(results, image, boxes)


@TRANSFORMS.register_module()
class MixUp(MixingTransform):
    """Blend an image with another of the same size and keep the boxes of both (mixup, arXiv 1710.09412).

    img = r * img + (1 - r) * other with r ~ Beta(alpha, alpha); boxes carry no weight. Put it after ``MosaicAffine``
    in the pipeline: the partner is then a mosaic too. A sample without a blend passes unchanged.

    Args:
        prob: Probability of a blend.
        alpha: Of the Beta distribution; 32 keeps r within about 0.5 +- 0.15.

    Raises:
        ValueError: On an argument out of its range, outside a dataset that mixes images, or if the sizes differ.
    """

    def __init__(self, prob: float = 0.1, alpha: float = 32.0) -> None:
        self.prob = check_range('prob', prob, 0, 1)
        if not alpha > 0:
            raise ValueError(f'alpha must be above 0, got {alpha!r}')
        self.alpha = alpha

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw the partner, an index of ``dataset``; none if the blend is not drawn."""
        return [int(np.random.randint(len(dataset)))] if np.random.uniform() < self.prob else []

    def draw(self, rng: np.random.RandomState) -> float:
        """Draw the weight of the image itself, in (0, 1)."""
        return rng.beta(self.alpha, self.alpha)

    def transform(self, results: dict) -> dict:
        """Blend the image with its partner."""
        partners = self.partners(results)
        if not partners:
            return results
        (image, annotations), (other, other_annotations) = map(self.read, [results, *partners])
        if image.shape != other.shape:
            raise ValueError(
                f'MixUp got images of {image.shape[:2]} and {other.shape[:2]} (height, width), which must be equal: '
                'put it after MosaicAffine, in the same pipeline'
            )
        weight = self.draw(np.random)
        blended = cv2.addWeighted(image, weight, other, 1 - weight, 0)
        return replace_image(results, blended, join([annotations, other_annotations]))
