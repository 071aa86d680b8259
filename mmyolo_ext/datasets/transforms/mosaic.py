"""Four pictures around a random point."""

from collections.abc import Sequence, Sized

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import check_image, read_annotations, replace_image
from .arguments import check_range, check_size_hw
from .tiles import compose_tiles, place_tiles, tile_annotations

PARTNERS = 3


@TRANSFORMS.register_module()
class Mosaic(BaseTransform):
    """Lay the picture and three others around a point of a canvas of twice ``size`` (YOLOv4, arXiv 2004.10934 3.3).

    The point is drawn evenly from the whole pixels in [S/2, 3S/2] on each axis. The picture itself lies at the top
    left, the others top right, bottom left and bottom right, each with one corner on the point; what reaches beyond
    the canvas is cut off and what stays bare is ``pad_val``. Boxes are clipped to the part that is seen of their
    picture and leave if that is a tenth of their area or less. The canvas is meant for :class:`RandomAffine`, which
    cuts the network's input out of its middle.

    Needs ``mmdet.MultiImageMixDataset``, which fetches the partners asked for by :meth:`get_indexes`. When the mosaic
    is not drawn the sample passes unchanged.

    Args:
        size: S, (height, width) of the network's input or one side of a square. Pictures should come resized to it.
        prob: Probability of a mosaic.
        pad_val: Grey level of the bare canvas.

    Raises:
        ValueError: On an argument out of its range, or outside a ``MultiImageMixDataset``.
    """

    mixes_images = True

    def __init__(self, size: int | Sequence[int], prob: float = 1.0, pad_val: int = 114) -> None:
        self.size_hw = check_size_hw('size', size)
        self.prob = check_range('prob', prob, 0, 1)
        self.pad_val = check_range('pad_val', pad_val, 0, 255)

    def get_indexes(self, dataset: Sized) -> list[int]:
        """The partners, three indices of ``dataset``; none when the mosaic is not drawn."""
        return self.draw_partners(np.random, len(dataset))

    def draw_partners(self, rng: np.random.RandomState, num_images: int) -> list[int]:
        chance, *places = rng.random_sample(1 + PARTNERS).tolist()
        return [int(place * num_images) for place in places] if chance < self.prob else []

    def draw(self, rng: np.random.RandomState) -> tuple[int, int]:
        """The centre (x, y), whole pixels of the canvas."""
        places = zip(rng.random_sample(2).tolist(), self.size_hw[::-1], strict=True)
        x, y = ((side + 1) // 2 + int(place * (3 * side // 2 + 1 - (side + 1) // 2)) for place, side in places)
        return x, y

    def transform(self, results: dict) -> dict:
        if 'mix_results' not in results:
            raise ValueError('Mosaic found no mix_results: put it into the pipeline of an mmdet.MultiImageMixDataset')
        if not results['mix_results']:
            return results
        samples = [results, *results['mix_results']]
        images = [check_image(sample, 'Mosaic') for sample in samples]
        canvas_hw = (2 * self.size_hw[0], 2 * self.size_hw[1])
        tiles = place_tiles([image.shape[:2] for image in images], self.draw(np.random), canvas_hw)
        canvas = compose_tiles(images, tiles, (0, 0, *canvas_hw[::-1]), self.pad_val)
        return replace_image(results, canvas, tile_annotations(list(map(read_annotations, samples)), tiles))

    def __repr__(self) -> str:
        return f'{type(self).__name__}(size={self.size_hw}, prob={self.prob}, pad_val={self.pad_val})'
