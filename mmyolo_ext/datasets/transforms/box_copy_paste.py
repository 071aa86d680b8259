"""Objects copied with the pixels of their boxes.

Letters: G boxes, K copies.
"""

import math
from collections.abc import Sequence, Sized
from typing import NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import Annotations, check_image, join, read_annotations, replace_image
from .arguments import check_range

SOURCES = ('picture', 'partner')
TRIES = 10  # places drawn for a copy before it is given up


class Paste(NamedTuple):
    """One copy: which box of the source, its pixels there (x1, y1, x2, y2), whole, and how far they move (x, y)."""

    box: int
    pixels: tuple[int, int, int, int]
    shift_xy: tuple[int, int]


@TRANSFORMS.register_module()
class BoxCopyPaste(BaseTransform):
    """Copy boxes with their pixels to free places of a picture: more of what is rare or small.

    Small objects copied within their picture are arXiv 1902.07296 (section 4.2), objects of another picture arXiv
    2012.07177. Both cut objects out by their masks; here the rectangle of the box moves, so that boxes suffice. A copy
    keeps its size and whole pixels, lies inside the picture, and neither it nor what it covers is hidden by more than
    ``max_overlap``, else it finds no place and is left out. Boxes to be ignored are not copied.

    Belongs into a :class:`MixDataset`, ahead of the mosaic in one of its own, or behind it with ``source='picture'``.
    Where nothing is drawn or fits, the sample passes unchanged.

    Args:
        prob: Probability that a picture gets copies.
        max_copies: Their number is drawn from 1 to this.
        source: 'picture' copies within the picture, 'partner' from another.
        labels: Copy boxes of these labels only; None copies any.
        max_side: Copy boxes only whose sides are both at most so long, px; None copies any.
        max_overlap: How much of a box another may cover, as a share of its area.

    Raises:
        ValueError: On an argument out of its range, or outside a data set that mixes.
    """

    mixes_images = True

    def __init__(
        self,
        prob: float = 0.5,
        max_copies: int = 3,
        source: str = 'picture',
        labels: Sequence[int] | None = None,
        max_side: float | None = None,
        max_overlap: float = 0.2,
    ) -> None:
        self.prob = check_range('prob', prob, 0, 1)
        if not isinstance(max_copies, int) or max_copies < 1:
            raise ValueError(f'max_copies must be a whole number from 1 on, got {max_copies!r}')
        self.max_copies = max_copies
        if source not in SOURCES:
            raise ValueError(f'source must be one of {SOURCES}, got {source!r}')
        self.source = source
        if labels is not None and (
            isinstance(labels, str) or not labels or not all(isinstance(k, int) and k >= 0 for k in labels)
        ):
            raise ValueError(f'labels must be None or a list of labels, whole numbers from 0 on, got {labels!r}')
        self.labels = labels
        self.max_side = math.inf if max_side is None else check_range('max_side', max_side, 2, math.inf)
        self.max_overlap = check_range('max_overlap', max_overlap, 0, 1)

    def get_indexes(self, dataset: Sized) -> list[int]:
        """The partner, one index of ``dataset``; none when no copies are drawn, or all are of the picture itself."""
        if self.source == 'picture':
            return []
        return self.draw_partners(np.random, len(dataset))

    def draw_partners(self, rng: np.random.RandomState, num_images: int) -> list[int]:
        chance, place = rng.random_sample(2).tolist()
        return [int(place * num_images)] if chance < self.prob else []

    def draw(
        self, rng: np.random.RandomState, size_hw: tuple[int, int], present: Annotations, source: Annotations,
        source_hw: tuple[int, int],
    ) -> list[Paste]:  # fmt: skip
        """What to copy where: places that keep to ``max_overlap`` among what is there and what was pasted before."""
        pixels = whole_pixels(source.boxes_xyxy, source_hw)
        candidates = self._candidates(source, pixels, size_hw)
        if not len(candidates):
            return []
        taken, pastes = present.boxes_xyxy, []
        for box in rng.choice(candidates, rng.randint(1, self.max_copies + 1)):
            x1, y1, x2, y2 = pixels[box].tolist()
            for to_x, to_y in rng.random_sample((TRIES, 2)).tolist():
                shift = int(to_x * (size_hw[1] - (x2 - x1) + 1)) - x1, int(to_y * (size_hw[0] - (y2 - y1) + 1)) - y1
                place = source.boxes_xyxy[box] + np.float32(shift * 2)
                if most_covered(place, taken) <= self.max_overlap:
                    pastes.append(Paste(int(box), (x1, y1, x2, y2), shift))
                    taken = np.concatenate((taken, place[None]))
                    break
        return pastes

    def _candidates(self, source: Annotations, pixels: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
        """Indices of the boxes that may be copied: those alone enough in their picture that no other is shown too."""
        width, height = (pixels[:, 2:] - pixels[:, :2]).T
        fits = (np.minimum(width, height) >= 2) & (np.maximum(width, height) <= self.max_side)
        fits &= (width <= size_hw[1]) & (height <= size_hw[0]) & ~source.ignore
        if self.labels is not None:
            fits &= np.isin(source.labels, self.labels)
        return np.array([k for k in fits.nonzero()[0] if _alone(source.boxes_xyxy, k, self.max_overlap)], np.int64)

    def transform(self, results: dict) -> dict:
        image, annotations = check_image(results, 'BoxCopyPaste'), read_annotations(results)
        if self.source == 'picture':
            if np.random.random_sample() >= self.prob:
                return results
            partner, source = image, annotations
        else:
            if 'mix_results' not in results:
                raise ValueError('BoxCopyPaste found no mix_results: put it into the pipeline of a MixDataset')
            if not results['mix_results']:
                return results
            (other,) = results['mix_results']
            partner, source = check_image(other, 'BoxCopyPaste'), read_annotations(other)
        pastes = self.draw(np.random, image.shape[:2], annotations, source, partner.shape[:2])
        if not pastes:
            return results
        return replace_image(results, *paste_boxes(image, annotations, partner, source, pastes))

    def __repr__(self) -> str:
        return (
            f'{type(self).__name__}(prob={self.prob}, max_copies={self.max_copies}, source={self.source!r}, '
            f'labels={self.labels}, max_side={self.max_side}, max_overlap={self.max_overlap})'
        )


def paste_boxes(
    image: np.ndarray, present: Annotations, partner: np.ndarray, source: Annotations, pastes: Sequence[Paste]
) -> tuple[np.ndarray, Annotations]:
    """A copy of the picture with the pixels of some boxes of ``partner`` on it, and all boxes."""
    image = image.copy()
    for _, (x1, y1, x2, y2), (x, y) in pastes:
        image[y1 + y : y2 + y, x1 + x : x2 + x] = partner[y1:y2, x1:x2]
    chosen = [paste.box for paste in pastes]
    shifts = np.array([paste.shift_xy * 2 for paste in pastes], np.float32)  # (K, 4)
    frame = np.array([paste.pixels for paste in pastes], np.float32)
    clipped = np.clip(source.boxes_xyxy[chosen], np.tile(frame[:, :2], 2), np.tile(frame[:, 2:], 2))
    moved = source.moved(source.boxes_xyxy, chosen)._replace(boxes_xyxy=clipped + shifts)
    return image, join([present, moved])


def whole_pixels(boxes_xyxy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """The least rectangles of whole pixels of the picture around boxes (G, 4), int64."""
    low, high = np.floor(boxes_xyxy[:, :2]), np.ceil(boxes_xyxy[:, 2:])
    return np.concatenate((np.maximum(low, 0), np.minimum(high, size_hw[::-1])), axis=1).astype(np.int64)


def most_covered(box_xyxy: np.ndarray, others_xyxy: np.ndarray) -> float:
    """The largest share that a box (4,) and any of others (G, 4) hide of each other: shared area by the smaller."""
    if not len(others_xyxy):
        return 0.0
    sides = np.minimum(box_xyxy[2:], others_xyxy[:, 2:]) - np.maximum(box_xyxy[:2], others_xyxy[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others_xyxy[:, 2:] - others_xyxy[:, :2]).prod(axis=1)
    smaller = np.minimum(areas, (box_xyxy[2:] - box_xyxy[:2]).prod())
    return float((shared / np.maximum(smaller, 1e-9)).max())


def _alone(boxes_xyxy: np.ndarray, index: int, max_overlap: float) -> bool:
    return most_covered(boxes_xyxy[index], np.delete(boxes_xyxy, index, axis=0)) <= max_overlap
