"""Copy-paste of objects by their boxes.

Letters: G boxes, K copies.
"""

import math
from collections.abc import Sequence, Sized
from typing import NamedTuple

import numpy as np
from mmcv.transforms import BaseTransform

from mmyolo_ext.registry import TRANSFORMS

from .annotations import Annotations, check_image, join, read_annotations, replace_image
from .functional import check_range
from .mosaic import mix_results

SOURCES = ('image', 'partner')
TRIES = 10  # places drawn for a copy before it is dropped


class Paste(NamedTuple):
    """One copy: the index of its box, the whole pixels of the box (x1, y1, x2, y2) in the source, and the shift."""

    box: int
    pixels: tuple[int, int, int, int]
    shift_xy: tuple[int, int]


@TRANSFORMS.register_module()
class BoxCopyPaste(BaseTransform):
    """Copy boxes with their pixels to free places of an image, to add rare or small objects.

    Copying small objects within their image is arXiv 1902.07296 (section 4.2), objects of another image arXiv
    2012.07177. Both cut out objects by masks; here the rectangle of the box is copied, so boxes suffice. A copy
    keeps its size and its pixels and lies inside the image. No box may cover more than ``max_overlap`` of another;
    a copy without such a place is dropped. Boxes with an ignore flag are not copied.

    Put it into the pipeline of a dataset that mixes images, before the mosaic, or behind it with ``source='image'``.
    A sample without copies passes unchanged.

    Args:
        prob: Probability that an image gets copies.
        max_copies: Their number is drawn from 1 to this.
        source: 'image' copies within the image, 'partner' from another.
        labels: Copy boxes of these labels only; None copies any.
        max_side: Copy only boxes whose sides are at most this long, px; None copies any.
        max_overlap: Fraction of a box that another may cover.

    Raises:
        ValueError: On an argument out of its range, or outside a dataset that mixes images.
    """

    mixes_images = True

    def __init__(
        self,
        prob: float = 0.5,
        max_copies: int = 3,
        source: str = 'image',
        labels: Sequence[int] | None = None,
        max_side: float | None = None,
        max_overlap: float = 0.2,
    ) -> None:
        self.prob = check_range('prob', prob, 0, 1)
        if not isinstance(max_copies, int) or max_copies < 1:
            raise ValueError(f'max_copies must be an integer above 0, got {max_copies!r}')
        self.max_copies = max_copies
        if source not in SOURCES:
            raise ValueError(f'source must be one of {SOURCES}, got {source!r}')
        self.source = source
        if labels is not None and (
            isinstance(labels, str) or not labels or not all(isinstance(k, int) and k >= 0 for k in labels)
        ):
            raise ValueError(f'labels must be None or a list of labels, integers from 0 on, got {labels!r}')
        self.labels = labels
        self.max_side = math.inf if max_side is None else check_range('max_side', max_side, 2, math.inf)
        self.max_overlap = check_range('max_overlap', max_overlap, 0, 1)

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Return the partner, one index of ``dataset``; none without copies, or with copies of the image itself."""
        return [] if self.source == 'image' else self.draw_partners(np.random, len(dataset))

    def draw_partners(self, rng: np.random.RandomState, num_images: int) -> list[int]:
        """Draw the index of the partner."""
        chance, place = rng.random_sample(2).tolist()
        return [int(place * num_images)] if chance < self.prob else []

    def draw(
        self,
        rng: np.random.RandomState,
        size_hw: tuple[int, int],
        present: Annotations,
        source: Annotations,
        source_hw: tuple[int, int],
    ) -> list[Paste]:
        """Draw the copies: their boxes, and places that respect ``max_overlap``.

        Args:
            rng: Random generator.
            size_hw: Of the image that gets the copies.
            present: Its boxes.
            source: Boxes of the image to copy from.
            source_hw: Size of the image to copy from.
        """
        pixels = whole_pixels(source.boxes_xyxy, source_hw)
        width, height = (pixels[:, 2:] - pixels[:, :2]).T
        fits = (np.minimum(width, height) >= 2) & (np.maximum(width, height) <= self.max_side)
        fits &= (width <= size_hw[1]) & (height <= size_hw[0]) & ~source.ignore
        if self.labels is not None:
            fits &= np.isin(source.labels, self.labels)
        boxes_xyxy = source.boxes_xyxy  # copy only boxes that show no more than max_overlap of another object
        candidates = [
            k
            for k in fits.nonzero()[0]
            if largest_overlap(boxes_xyxy[k], np.delete(boxes_xyxy, k, axis=0)) <= self.max_overlap
        ]
        if not candidates:
            return []
        taken, pastes = present.boxes_xyxy, []
        for box in rng.choice(np.array(candidates, np.int64), rng.randint(1, self.max_copies + 1)):
            x1, y1, x2, y2 = pixels[box].tolist()
            for to_x, to_y in rng.random_sample((TRIES, 2)).tolist():
                shift = int(to_x * (size_hw[1] - (x2 - x1) + 1)) - x1, int(to_y * (size_hw[0] - (y2 - y1) + 1)) - y1
                place = source.boxes_xyxy[box] + np.float32(shift * 2)
                if largest_overlap(place, taken) <= self.max_overlap:
                    pastes.append(Paste(int(box), (x1, y1, x2, y2), shift))
                    taken = np.concatenate((taken, place[None]))
                    break
        return pastes

    def transform(self, results: dict) -> dict:
        """Paste the copies."""
        image, annotations = check_image(results, 'BoxCopyPaste'), read_annotations(results)
        if self.source == 'image':
            if np.random.random_sample() >= self.prob:
                return results
            partner, source = image, annotations
        else:
            partners = mix_results(results, 'BoxCopyPaste')
            if not partners:
                return results
            partner, source = check_image(partners[0], 'BoxCopyPaste'), read_annotations(partners[0])
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
    """Return a copy of the image with the pixels of some boxes of ``partner`` pasted, and all boxes."""
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
    """Return the smallest rectangles of whole pixels around boxes (G, 4), clipped to the image, int64."""
    low, high = np.floor(boxes_xyxy[:, :2]), np.ceil(boxes_xyxy[:, 2:])
    return np.concatenate((np.maximum(low, 0), np.minimum(high, size_hw[::-1])), axis=1).astype(np.int64)


def largest_overlap(box_xyxy: np.ndarray, others_xyxy: np.ndarray) -> float:
    """Return the largest overlap of a box (4,) with others (G, 4): intersection over the smaller area."""
    if not len(others_xyxy):
        return 0.0
    sides = np.minimum(box_xyxy[2:], others_xyxy[:, 2:]) - np.maximum(box_xyxy[:2], others_xyxy[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others_xyxy[:, 2:] - others_xyxy[:, :2]).prod(axis=1)
    smaller = np.minimum(areas, (box_xyxy[2:] - box_xyxy[:2]).prod())
    return float((shared / np.maximum(smaller, 1e-9)).max())
