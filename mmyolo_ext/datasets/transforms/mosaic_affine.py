"""Mosaic and affine in one pass over the pixels."""

from collections.abc import Sequence, Sized

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, read_annotations, replace_image
from .mosaic import Mosaic
from .random_affine import RandomAffine
from .tiles import Tile, fitted_hw, place_tiles, warp_tile_annotations, warp_tiles


@TRANSFORMS.register_module()
class MosaicAffine(BaseTransform):
    """:class:`Mosaic`, then :class:`RandomAffine`, without the canvas of twice the size between them.

    Draws the same numbers in the same order as the two, and comes to the same boxes and, up to interpolation, the same
    pixels. Pictures are fitted into ``size`` on the way, ratio kept, so that no resize goes ahead; those larger than
    ``size`` should come shrunk (:class:`CachedDataset` does so), for a warp that shrinks a lot leaves out pixels.

    Where no mosaic is drawn, and after :meth:`stop_mixing`, the picture alone goes through the affine.

    Args:
        size: (height, width) of the output, or one side of a square.
        prob: Probability of a mosaic.
        scale, translate, degrees, shear: As in :class:`RandomAffine`.
        pad_val: Grey level where no picture lies.

    Raises:
        ValueError: On an argument out of its range, or outside a data set that mixes.
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
        """No more mosaics from now on."""
        self._mixes = False

    def get_indexes(self, dataset: Sized) -> list[int]:
        """The partners, three indices of ``dataset``; none when the mosaic is not drawn."""
        return self.mosaic.get_indexes(dataset) if self._mixes else []

    def transform(self, results: dict) -> dict:
        if 'mix_results' not in results:
            raise ValueError('MosaicAffine found no mix_results: put it into the pipeline of an mmyolo_ext.MixDataset')
        samples = [results, *results['mix_results']]
        images = [check_image(sample, 'MosaicAffine') for sample in samples]
        annotations = [read_annotations(sample) for sample in samples]
        resized_hw = [fitted_hw(image.shape[:2], self.size_hw) for image in images]
        scales_wh = [
            (width / image.shape[1], height / image.shape[0])
            for (height, width), image in zip(resized_hw, images, strict=True)
        ]
        if len(samples) > 1:
            canvas_hw = (2 * self.size_hw[0], 2 * self.size_hw[1])
            tiles = place_tiles(resized_hw, self.mosaic.draw(np.random), canvas_hw)
        else:
            canvas_hw = resized_hw[0]
            whole = (0, 0, canvas_hw[1], canvas_hw[0])
            tiles = [Tile(whole, whole, (0, 0))]
        matrix = self.affine.draw(np.random, canvas_hw)
        image = warp_tiles(images, tiles, resized_hw, matrix, self.size_hw, self.mosaic.pad_val)
        boxes = warp_tile_annotations(annotations, tiles, scales_wh, matrix, self.size_hw)
        return replace_image(results, image, boxes)

    def __repr__(self) -> str:
        return f'{type(self).__name__}({self.mosaic!r}, {self.affine!r})'
