"""Transforms that mix several images: mosaic, mosaic and affine in one, mixup."""

from collections.abc import Sequence, Sized

import cv2
import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, join, read_annotations, replace_image
from .functional import check_range, check_size_hw, plan_letterbox
from .geometry import RandomAffine
from .tiles import Tile, compose_tiles, place_tiles, tile_annotations, warp_tile_annotations, warp_tiles

PARTNERS = 3


def mix_results(results: dict, transform: str) -> list[dict]:
    """Return the partners of a sample, none if the mix was not drawn.

    Raises:
        ValueError: Outside a dataset that mixes images.
    """
    if 'mix_results' not in results:
        raise ValueError(
            f'{transform} found no mix_results: put it into the pipeline of mmyolo_ext.SeededDataset or MixDataset'
        )
    return results['mix_results']


@TRANSFORMS.register_module()
class Mosaic(BaseTransform):
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

    mixes_images = True

    def __init__(self, size: int | Sequence[int], prob: float = 1.0, pad_val: int = 114) -> None:
        self.size_hw = check_size_hw('size', size)
        self.prob = check_range('prob', prob, 0, 1)
        self.pad_val = check_range('pad_val', pad_val, 0, 255)

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Return the partners, three indices of ``dataset``; none if the mosaic is not drawn."""
        return self.draw_partners(np.random, len(dataset))

    def draw_partners(self, rng: np.random.RandomState, num_images: int) -> list[int]:
        """Draw the indices of the partners."""
        chance, *places = rng.random_sample(1 + PARTNERS).tolist()
        return [int(place * num_images) for place in places] if chance < self.prob else []

    def draw(self, rng: np.random.RandomState) -> tuple[int, int]:
        """Draw the centre (x, y), whole pixels of the canvas."""
        places = zip(rng.random_sample(2).tolist(), self.size_hw[::-1], strict=True)
        x, y = ((side + 1) // 2 + int(place * (3 * side // 2 + 1 - (side + 1) // 2)) for place, side in places)
        return x, y

    def transform(self, results: dict) -> dict:
        """Compose the canvas."""
        partners = mix_results(results, 'Mosaic')
        if not partners:
            return results
        samples = [results, *partners]
        images = [check_image(sample, 'Mosaic') for sample in samples]
        canvas_hw = (2 * self.size_hw[0], 2 * self.size_hw[1])
        tiles = place_tiles([image.shape[:2] for image in images], self.draw(np.random), canvas_hw)
        canvas = compose_tiles(images, tiles, (0, 0, *canvas_hw[::-1]), self.pad_val)
        return replace_image(results, canvas, tile_annotations(list(map(read_annotations, samples)), tiles))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size_hw}, prob={self.prob}, pad_val={self.pad_val})'


@TRANSFORMS.register_module()
class MosaicAffine(BaseTransform):
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

    mixes_images = True

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
        self.mosaic = Mosaic(size, prob, pad_val)
        self.affine = RandomAffine(size, scale, translate, degrees, shear, pad_val)
        self.size_hw = self.mosaic.size_hw
        self._mixes = True

    def stop_mixing(self) -> None:
        """Make no more mosaics."""
        self._mixes = False

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Return the partners, three indices of ``dataset``; none if the mosaic is not drawn."""
        return self.mosaic.draw_partners(np.random, len(dataset)) if self._mixes else []

    def transform(self, results: dict) -> dict:
        """Compose and warp the images."""
        samples = [results, *mix_results(results, 'MosaicAffine')]
        images = [check_image(sample, 'MosaicAffine') for sample in samples]
        annotations = [read_annotations(sample) for sample in samples]
        plans = [plan_letterbox(image.shape[:2], self.size_hw, self.size_hw) for image in images]
        resized_hw = [plan.resized_hw for plan in plans]
        if len(samples) > 1:
            canvas_hw = (2 * self.size_hw[0], 2 * self.size_hw[1])
            tiles = place_tiles(resized_hw, self.mosaic.draw(np.random), canvas_hw)
        else:
            canvas_hw = resized_hw[0]
            whole = (0, 0, canvas_hw[1], canvas_hw[0])
            tiles = [Tile(whole, whole, (0, 0))]
        matrix = self.affine.draw(np.random, canvas_hw)
        image = warp_tiles(images, tiles, resized_hw, matrix, self.size_hw, self.mosaic.pad_val)
        boxes = warp_tile_annotations(annotations, tiles, [plan.scale_wh for plan in plans], matrix, self.size_hw)
        return replace_image(results, image, boxes)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.mosaic!r}, {self.affine!r})'


@TRANSFORMS.register_module()
class MixUp(BaseTransform):
    """Blend an image with another of the same size and keep the boxes of both (mixup, arXiv 1710.09412).

    img = r * img + (1 - r) * other with r ~ Beta(alpha, alpha); boxes carry no weight. Put it after ``MosaicAffine``
    in the pipeline: the partner is then a mosaic too. A sample without a blend passes unchanged.

    Args:
        prob: Probability of a blend.
        alpha: Of the Beta distribution; 32 keeps r within about 0.5 +- 0.15.

    Raises:
        ValueError: On an argument out of its range, outside a dataset that mixes images, or if the sizes differ.
    """

    mixes_images = True

    def __init__(self, prob: float = 0.1, alpha: float = 32.0) -> None:
        self.prob = check_range('prob', prob, 0, 1)
        if not alpha > 0:
            raise ValueError(f'alpha must be above 0, got {alpha!r}')
        self.alpha = alpha

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Return the partner, one index of ``dataset``; none if the blend is not drawn."""
        return self.draw_partners(np.random, len(dataset))

    def draw_partners(self, rng: np.random.RandomState, num_images: int) -> list[int]:
        """Draw the index of the partner."""
        if rng.uniform() >= self.prob:
            return []
        return [int(rng.randint(num_images))]

    def draw(self, rng: np.random.RandomState) -> float:
        """Draw the weight of the image itself, in (0, 1)."""
        return rng.beta(self.alpha, self.alpha)

    def transform(self, results: dict) -> dict:
        """Blend the image with its partner."""
        partners = mix_results(results, 'MixUp')
        if not partners:
            return results
        (partner,) = partners
        image, other = check_image(results, 'MixUp'), check_image(partner, 'MixUp')
        if image.shape != other.shape:
            raise ValueError(
                f'MixUp got images of {image.shape[:2]} and {other.shape[:2]} (height, width), which must be equal: '
                'put it after MosaicAffine, in the same pipeline'
            )
        weight = self.draw(np.random)
        blended = cv2.addWeighted(image, weight, other, 1 - weight, 0)
        return replace_image(results, blended, join([read_annotations(results), read_annotations(partner)]))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(prob={self.prob}, alpha={self.alpha})'
