"""Cut large images into overlapping tiles, and merge the detections on them; imports no torch."""

import math
from collections.abc import Sequence
from itertools import combinations

import cv2
import numpy as np

SAME_PART = 0.5  # IoU in the area that two tiles share, from which two boxes are of one object
INSIDE = 0.75  # share of a cut box in a larger one of other tiles, from which it is a part of that object
WEAK = 0.3  # of the best score of an object: boxes below do not change its box
MERGES = ('nms', 'wbf')
EDGE = 0.02  # of the side of a tile, at least 2 px: a box this close to the border of its tile is cut by it


def check_tiling(size: int, overlap: float) -> None:
    """Raise ValueError if ``size`` or ``overlap`` of tiles is out of its range."""
    if not isinstance(size, (int, np.integer)) or isinstance(size, bool) or size < 32:
        raise ValueError(f'the side of tiles must be an integer of at least 32 px, got {size!r}')
    if not 0 <= overlap <= 0.9:
        raise ValueError(f'the overlap of tiles must be from 0 to 0.9 of their side, got {overlap!r}')


def check_merge(merge_by: str) -> None:
    """Raise ValueError if ``merge_by`` is no way to merge boxes."""
    if merge_by not in MERGES:
        raise ValueError(f'the boxes of tiles are merged by {" or ".join(MERGES)}, got {merge_by!r}')


def tiles(height: int, width: int, size: int, overlap: float = 0.2) -> list[tuple[int, int, int, int]]:
    """Return the tiles (x, y, width, height) that cover an image, row by row.

    Each has ``size`` px on a side, or that of the image if it is smaller; neighbours share at least ``overlap`` of
    their side, all about the same.

    Raises:
        ValueError: If ``size`` or ``overlap`` is out of its range.

    >>> tiles(600, 1000, 600, 0.2)
    [(0, 0, 600, 600), (400, 0, 600, 600)]
    """
    check_tiling(size, overlap)

    def starts(side: int) -> list[int]:
        step = size - math.ceil(overlap * size)
        return (
            np.linspace(0, max(side - size, 0), 1 + math.ceil(max(side - size, 0) / step)).round().astype(int).tolist()
        )

    w, h = min(size, width), min(size, height)
    return [(x, y, w, h) for y in starts(height) for x in starts(width)]


def merge(
    detections: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]],
    tiles_xywh: Sequence[tuple[int, int, int, int]],
    image_hw: tuple[int, int],
    iou_thr: float = 0.45,
    merge_by: str = 'nms',
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge the detections on the tiles of an image, so that an object across borders of tiles has one box.

    1. Two boxes of a class in different tiles are of one object if they agree in the area that the tiles share. An
       object takes at most one box of each tile; pairs with high scores come first.
    2. The box of an object is the best complete one; if every tile cuts it, the hull of its parts. Boxes with less
       than 0.3 of the best score do not count. The score is the best of those that make the box.
    3. Cut boxes inside a better box of other tiles are dropped, and NMS by class removes what overlaps still.

    With ``merge_by='wbf'``, the complete boxes of an object in step 2, and in step 3 those that overlap, are fused as
    :func:`weighted_box_fusion` does.

    Args:
        detections: Boxes (n, 4) xyxy in px of the tile, scores (n,) and labels (n,) of each tile.
        tiles_xywh: The tiles.
        image_hw: Height and width of the image.
        iou_thr: Of two merged boxes of a class that overlap by more, the worse is dropped.
        merge_by: ``'nms'`` or ``'wbf'``.

    Returns:
        Boxes (m, 4) xyxy in px of the image, scores (m,) and labels (m,), best first.

    Raises:
        ValueError: On another ``merge_by``.
    """
    check_merge(merge_by)
    places = np.reshape(tiles_xywh, (-1, 4)).astype(np.float64)
    frames = np.concatenate([places[:, :2], places[:, :2] + places[:, 2:]], axis=1)  # xyxy
    counts = [len(scores) for _, scores, _ in detections]
    tile = np.repeat(np.arange(len(counts)), counts)
    boxes = np.concatenate([np.reshape(boxes, (-1, 4)) for boxes, _, _ in detections] or [np.zeros((0, 4))])
    boxes = boxes + frames[tile][:, [0, 1, 0, 1]]
    scores = np.concatenate([scores for _, scores, _ in detections] or [np.zeros(0)])
    labels = np.concatenate([labels for _, _, labels in detections] or [np.zeros(0, int)]).astype(np.int64)
    if len(frames) > 1 and len(boxes):
        boxes, scores, labels = _join(boxes, scores, labels, tile, frames, image_hw, merge_by == 'wbf')
    if not len(boxes):
        return boxes.astype(np.float32), scores.astype(np.float32), labels
    if merge_by == 'wbf':
        boxes, scores, labels = weighted_box_fusion(boxes, scores, labels, iou_thr)
        return boxes.astype(np.float32), scores.astype(np.float32), labels
    wh = boxes[:, 2:] - boxes[:, :2]
    kept = cv2.dnn.NMSBoxesBatched(
        np.hstack([boxes[:, :2], wh]).tolist(), scores.tolist(), labels.tolist(), -1.0, iou_thr
    )
    kept = np.asarray(kept, int)
    kept = kept[np.argsort(-scores[kept], kind='stable')]
    return boxes[kept].astype(np.float32), scores[kept].astype(np.float32), labels[kept]


def weighted_box_fusion(
    boxes: np.ndarray, scores: np.ndarray, labels: np.ndarray, iou_thr: float = 0.55
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Fuse boxes of a class that overlap (Solovyev, Wang and Gabruseva, arXiv 1910.13302), those of one detector.

    Boxes are taken in the order of their scores. Each joins the cluster whose box it overlaps most, if by more than
    ``iou_thr``, or begins one. The box of a cluster is the mean of its boxes, weighted by their scores. Its score is
    the best of theirs: the paper's mean is over detectors, and lowers that of a box which a weak one overlaps.

    Args:
        boxes: (n, 4) xyxy.
        scores: (n,).
        labels: (n,) int.
        iou_thr: See above.

    Returns:
        Boxes (m, 4), scores (m,) and labels (m,), best first.
    """
    boxes, scores = boxes.astype(np.float64), scores.astype(np.float64)
    sums = np.zeros((len(boxes), 5))  # of each cluster: scores times boxes, scores
    fused, first = np.zeros((len(boxes), 4)), np.zeros(len(boxes), int)
    count = 0
    for index in np.argsort(-scores, kind='stable'):
        overlap = _iou(boxes[[index]], fused[:count])[0] * (labels[first[:count]] == labels[index])
        if count and overlap.max() > iou_thr:
            cluster = overlap.argmax()
        else:
            cluster, count = count, count + 1
            first[cluster] = index
        sums[cluster] += [*(scores[index] * boxes[index]), scores[index]]
        fused[cluster] = sums[cluster, :4] / max(sums[cluster, 4], 1e-12)
    return fused[:count], scores[first[:count]], labels[first[:count]]


def _join(
    boxes: np.ndarray,
    scores: np.ndarray,
    labels: np.ndarray,
    tile: np.ndarray,
    frames: np.ndarray,
    image_hw: tuple[int, int],
    fuse: bool,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return one box, score and label for each object; boxes (n, 4) in px of the image, ``tile`` (n,) of each."""
    edge = max(2.0, EDGE * (frames[:, 2:] - frames[:, :2]).max())
    whole = np.array([0, 0, image_hw[1], image_hw[0]])
    cut = (np.abs(boxes - frames[tile]) <= edge) & (frames[tile] != whole)  # (n, 4): sides on an inner border
    opened = np.where(cut, [-np.inf, -np.inf, np.inf, np.inf], boxes)  # the object goes on there
    complete = ~cut.any(1)
    of_tile = [np.flatnonzero(tile == index) for index in range(len(frames))]
    pairs = []
    for one, other in combinations(range(len(frames)), 2):
        low, high = np.maximum(frames[one], frames[other])[:2], np.minimum(frames[one], frames[other])[2:]
        i, j = of_tile[one], of_tile[other]
        if (low > high).any() or not len(i) or not len(j):
            continue
        narrow = high - low < 2 * edge  # tiles that only touch share a strip around their border
        middle = (low + high) / 2
        low, high = np.where(narrow, middle - edge, low), np.where(narrow, middle + edge, high)
        same = labels[i][:, None] == labels[j]
        shared = _iou(opened[i].clip([*low, *low], [*high, *high]), opened[j].clip([*low, *low], [*high, *high]))
        agree = np.where(same, shared, 0)
        row, column = np.nonzero(agree >= SAME_PART)
        strength = agree[row, column] * np.minimum(scores[i[row]], scores[j[column]])
        pairs.append(np.stack([strength, i[row], j[column]], axis=1))

    members = {index: [index] for index in range(len(boxes))}
    owner = list(range(len(boxes)))
    found = np.concatenate(pairs) if pairs else np.zeros((0, 3))
    for first, second in found[np.argsort(-found[:, 0], kind='stable'), 1:].astype(int).tolist():
        a, b = owner[first], owner[second]
        if a == b or {tile[index] for index in members[a]} & {tile[index] for index in members[b]}:
            continue
        members[a] += members.pop(b)
        for index in members[a]:
            owner[index] = a
    merged, is_part = [], []
    for group in members.values():
        best = scores[group].max()
        group = np.array([index for index in group if scores[index] >= WEAK * best])
        is_part.append(not complete[group].any())
        if not is_part[-1]:
            group = group[complete[group]]
            if fuse:
                box = np.average(boxes[group], axis=0, weights=scores[group] + 1e-12)  # a score may be 0
                merged.append((box, best, labels[group[0]]))
                continue
            group = group[[scores[group].argmax()]]
        box = np.concatenate([boxes[group, :2].min(0), boxes[group, 2:].max(0)])
        merged.append((box, scores[group].max(), labels[group[0]]))
    boxes, scores, labels = map(np.array, zip(*merged, strict=True))
    of_group = [{tile[index] for index in group} for group in members.values()]
    keep = np.ones(len(boxes), bool)
    around = boxes + [-edge, -edge, edge, edge]
    areas = _areas(boxes)
    for part in np.flatnonzero(is_part):
        inside = _intersections(boxes[[part]], around)[0] >= INSIDE * areas[part]
        larger = np.flatnonzero(inside & (labels == labels[part]) & (scores >= scores[part]) & (areas > areas[part]))
        keep[part] = all(of_group[part] & of_group[other] for other in larger)
    return boxes[keep], scores[keep], labels[keep]


def _areas(boxes: np.ndarray) -> np.ndarray:
    return (boxes[:, 2:] - boxes[:, :2]).clip(0).prod(1)


def _intersections(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Areas that boxes (n, 4) and others (m, 4) share: (n, m)."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    return (high - low).clip(0).prod(2)


def _iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    shared = _intersections(boxes, others)
    union = _areas(boxes)[:, None] + _areas(others) - shared
    return shared / np.maximum(union, 1e-9)
