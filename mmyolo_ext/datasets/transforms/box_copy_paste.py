"""Copy-paste of objects by their boxes.

Letters: G boxes, K copies.
"""

import math
from collections.abc import Sequence, Sized

import numpy as np

from mmyolo_ext.datasets.transforms.annotations import Annotations, join, replace_image
from mmyolo_ext.datasets.transforms.functional import check_range
from mmyolo_ext.datasets.transforms.mosaic import MixingTransform
from mmyolo_ext.registry import TRANSFORMS

SOURCES = ('image', 'partner')
TRIES = 10  # places drawn for a copy before it is dropped


@TRANSFORMS.register_module()
class BoxCopyPaste(MixingTransform):
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
        self.max_copies = check_range('max_copies', max_copies, 1, math.inf)
        if source not in SOURCES:
            raise ValueError(f'source must be one of {SOURCES}, got {source!r}')
        self.source = source
        if labels is not None and set(map(type, labels)) != {int}:
            raise ValueError(f'labels must be None or a list of integers, got {labels!r}')
        self.labels = labels
        self.max_side = math.inf if max_side is None else check_range('max_side', max_side, 2, math.inf)
        self.max_overlap = check_range('max_overlap', max_overlap, 0, 1)

    def get_indexes(self, dataset: Sized) -> list[int]:
        """Draw the partner, an index of ``dataset``; none without copies, or with copies of the image itself."""
        return [] if self.source == 'image' else super().get_indexes(dataset)

    def draw(
        self,
        rng: np.random.RandomState,
        size_hw: tuple[int, int],
        present: Annotations,
        source: Annotations,
        source_hw: tuple[int, int],
    ) -> list[tuple[int, tuple[int, int]]]:
        """Draw the copies: the index of each box and its shift (x, y) to a place that respects ``max_overlap``.

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
        boxes = source.boxes_xyxy  # copy only boxes that show no more than max_overlap of another object
        candidates = [
            k for k in fits.nonzero()[0] if largest_overlap(boxes[k], np.delete(boxes, k, axis=0)) <= self.max_overlap
        ]
        if not candidates:
            return []
        taken, pastes = present.boxes_xyxy, []
        for box in rng.choice(np.array(candidates, np.int64), rng.randint(1, self.max_copies + 1)):
            x1, y1, x2, y2 = pixels[box].tolist()
            for to_x, to_y in rng.random_sample((TRIES, 2)).tolist():
                shift = int(to_x * (size_hw[1] - (x2 - x1) + 1)) - x1, int(to_y * (size_hw[0] - (y2 - y1) + 1)) - y1
                place = boxes[box] + np.float32(shift * 2)
                if largest_overlap(place, taken) <= self.max_overlap:
                    pastes.append((int(box), shift))
                    taken = np.concatenate((taken, place[None]))
                    break
        return pastes

    def transform(self, results: dict) -> dict:
        """Paste the copies."""
        image, annotations = self.read(results)
        partner, source = image, annotations
        if self.source == 'image':
            drawn = np.random.random_sample() < self.prob
        else:
            drawn = self.partners(results)
            if drawn:
                partner, source = self.read(drawn[0])
        pastes = self.draw(np.random, image.shape[:2], annotations, source, partner.shape[:2]) if drawn else []
        if not pastes:
            return results
        return replace_image(results, *paste_boxes(image, annotations, partner, source, pastes))


def paste_boxes(
    image: np.ndarray,
    present: Annotations,
    partner: np.ndarray,
    source: Annotations,
    pastes: Sequence[tuple[int, tuple[int, int]]],
) -> tuple[np.ndarray, Annotations]:
    """Return a copy of the image with the pixels of some boxes of ``partner`` pasted, and all boxes."""
    image = image.copy()
    boxes, shifts = zip(*pastes, strict=True)
    copies = source.moved(source.boxes_xyxy, list(boxes))
    frames = whole_pixels(copies.boxes_xyxy, partner.shape[:2])  # (K, 4)
    for (x1, y1, x2, y2), (x, y) in zip(frames.tolist(), shifts, strict=True):
        image[y1 + y : y2 + y, x1 + x : x2 + x] = partner[y1:y2, x1:x2]
    frames = frames.astype(np.float32)
    clipped = np.clip(copies.boxes_xyxy, np.tile(frames[:, :2], 2), np.tile(frames[:, 2:], 2))
    return image, join([present, copies._replace(boxes_xyxy=clipped + np.tile(shifts, 2).astype(np.float32))])


def whole_pixels(boxes_xyxy: np.ndarray, size_hw: tuple[int, int]) -> np.ndarray:
    """Return the smallest rectangles of whole pixels around boxes (G, 4), clipped to the image, int64."""
    low, high = np.floor(boxes_xyxy[:, :2]), np.ceil(boxes_xyxy[:, 2:])
    return np.concatenate((np.maximum(low, 0), np.minimum(high, size_hw[::-1])), axis=1).astype(np.int64)


def largest_overlap(box_xyxy: np.ndarray, others_xyxy: np.ndarray) -> float:
    """Return the largest overlap of a box (4,) with others (G, 4): intersection over the smaller area."""
    sides = np.minimum(box_xyxy[2:], others_xyxy[:, 2:]) - np.maximum(box_xyxy[:2], others_xyxy[:, :2])
    shared = sides.clip(min=0).prod(axis=1)
    areas = (others_xyxy[:, 2:] - others_xyxy[:, :2]).prod(axis=1)
    smaller = np.minimum(areas, (box_xyxy[2:] - box_xyxy[:2]).prod())
    return float((shared / np.maximum(smaller, 1e-9)).max(initial=0))
