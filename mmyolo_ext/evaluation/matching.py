"""Match detections with ground truth once; precision, recall, F1, confusion matrix, error types and images read it.

Letters: D detections, G ground truth boxes, P pairs of both in one image, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools.mask import iou as coco_iou

from mmyolo_ext.progress import with_bar

BACKGROUND_IOU = 0.1  # below it, a detection and a ground truth box are unrelated (TIDE's t_b)
RECALLS = np.linspace(0, 1, 101)
NUM_BINS = 10  # of the calibration


@dataclass
class Matching:
    """Ground truth, detections in the order of falling scores, and which of both belong together.

    Attributes:
        class_names: C names, in the order of the categories.
        iou_thr: From which IoU on a detection finds a ground truth box.
        gt_image, gt_label, gt_xywh, gt_area, gt_crowd: (G,), boxes (G, 4); images and labels are indices into the
            lists ``images`` and ``categories``.
        image, label, xywh, score: The same of the detections, (D,), boxes (D, 4).
        partner: (D,) the ground truth box that a true positive found, else -1.
        ignored: (D,) bool, detections in a crowd region, neither true nor false.
        pairs: Detection, ground truth box and IoU, each (P,), of all pairs with an IoU of at least 0.1, over all
            classes, ordered by detection, then by falling IoU.
    """

    class_names: list[str]
    iou_thr: float
    gt_image: np.ndarray
    gt_label: np.ndarray
    gt_xywh: np.ndarray
    gt_area: np.ndarray
    gt_crowd: np.ndarray
    image: np.ndarray
    label: np.ndarray
    xywh: np.ndarray
    score: np.ndarray
    partner: np.ndarray
    ignored: np.ndarray
    pairs: tuple[np.ndarray, np.ndarray, np.ndarray]

    @property
    def gt_counts(self) -> np.ndarray:
        """(C,) number of ground truth boxes that are no crowd regions."""
        return np.bincount(self.gt_label[~self.gt_crowd], minlength=len(self.class_names))

    def kept(self, confidence: float | np.ndarray) -> np.ndarray:
        """Return a mask (D,) of the detections that count, from a confidence on, global or (C,) by class."""
        thresholds = np.broadcast_to(np.asarray(confidence, dtype=np.float64), len(self.class_names))
        return (self.score >= thresholds[self.label]) & ~self.ignored


def match(gt: dict, detections: list[dict], iou_thr: float = 0.5) -> Matching:
    """Match at one IoU, see :func:`match_all`."""
    return match_all(gt, detections, (iou_thr,))[0]


def match_all(gt: dict, detections: list[dict], iou_thrs: Sequence[float]) -> list[Matching]:
    """Match each detection with at most one ground truth box of its class and image, by COCO's rule.

    In the order of falling scores, a detection takes the free box of the highest IoU, from the threshold on. Thus the
    matches of the detections above a confidence do not depend on those below.

    Args:
        gt: COCO JSON: ``images``, ``categories`` and ``annotations`` with ``bbox`` xywh; ``iscrowd`` is read.
        detections: Dicts of ``image_id``, ``category_id``, ``bbox`` xywh and ``score``.
        iou_thrs: In (0.1, 1], one for each matching.

    Raises:
        ValueError: If a detection or annotation is of an unknown image or category, or for another threshold.
    """
    for iou_thr in iou_thrs:
        if not BACKGROUND_IOU < iou_thr <= 1:
            raise ValueError(f'iou_thr must be above {BACKGROUND_IOU} and at most 1, got {iou_thr}')
    annotations = gt['annotations']
    gt_image, gt_label = _indices(gt, annotations, 'annotation')
    gt_xywh = np.array([entry['bbox'] for entry in annotations], dtype=np.float64).reshape(-1, 4)
    crowd = np.array([bool(entry.get('iscrowd', 0)) for entry in annotations], dtype=bool)
    area = np.array([entry.get('area', w * h) for entry, (_, _, w, h) in zip(annotations, gt_xywh, strict=True)])
    image, label = _indices(gt, detections, 'detection')
    score = np.array([entry['score'] for entry in detections], dtype=np.float64)
    xywh = np.array([entry['bbox'] for entry in detections], dtype=np.float64).reshape(-1, 4)
    # as in COCO's evaluation, the image id decides between equal scores
    by_id = np.empty(len(gt['images']), dtype=int)
    by_id[np.argsort([entry['id'] for entry in gt['images']], kind='stable')] = np.arange(len(by_id))
    order = np.lexsort((by_id[image], -score))
    image, label, xywh, score = image[order], label[order], xywh[order], score[order]

    found, boxes, ious = _pairs(image, xywh, gt_image, gt_xywh, crowd)
    pairs = tuple(part[~crowd[boxes]] for part in (found, boxes, ious))
    names = [category['name'] for category in gt['categories']]
    truth = gt_image, gt_label, gt_xywh, area.astype(np.float64), crowd
    matchings = []
    for iou_thr in iou_thrs:
        same = (label[found] == gt_label[boxes]) & (ious >= min(iou_thr, 1 - 1e-10))
        partner = _greedy(found[same & ~crowd[boxes]], boxes[same & ~crowd[boxes]], len(score), len(gt_xywh))
        ignored = np.zeros(len(score), dtype=bool)
        ignored[found[same & crowd[boxes]]] = True
        ignored &= partner < 0
        matchings.append(Matching(names, iou_thr, *truth, image, label, xywh, score, partner, ignored, pairs))
    return matchings


def _indices(gt: dict, entries: list[dict], kind: str) -> tuple[np.ndarray, np.ndarray]:
    found = []
    for field, key in (('image_id', 'images'), ('category_id', 'categories')):
        index = {entry['id']: at for at, entry in enumerate(gt[key])}
        try:
            found.append(np.array([index[entry[field]] for entry in entries], dtype=int))
        except KeyError as error:
            raise ValueError(f'{field} {error} of a {kind} is not among the {key} of the ground truth') from error
    return found[0], found[1]


def _pairs(image, xywh, gt_image, gt_xywh, crowd) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the pairs with an IoU of at least 0.1, ordered by detection, falling IoU and falling index of the box."""
    of_image, of_gt = np.argsort(image, kind='stable'), np.argsort(gt_image, kind='stable')
    both = np.intersect1d(image, gt_image)
    spans = [
        np.searchsorted(index[order], both, side).tolist()
        for index, order in ((image, of_image), (gt_image, of_gt))
        for side in ('left', 'right')
    ]
    parts = [(np.empty(0, int), np.empty(0, int), np.empty(0))]
    for start, end, gt_start, gt_end in with_bar(zip(*spans, strict=True), 'Matching images', len(spans[0])):
        rows, columns = of_image[start:end], of_gt[gt_start:gt_end]
        iou = coco_iou(xywh[rows], gt_xywh[columns], crowd[columns].astype(np.uint8).tolist())
        row, column = np.nonzero(iou >= BACKGROUND_IOU)
        parts.append((rows[row], columns[column], iou[row, column]))
    found, boxes, ious = (np.concatenate(part) for part in zip(*parts, strict=True))
    order = np.lexsort((-boxes, -ious, found))
    return found[order], boxes[order], ious[order]


def _greedy(found: np.ndarray, boxes: np.ndarray, num_detections: int, num_boxes: int) -> np.ndarray:
    """Give each detection the first of its boxes that is free; pairs are ordered by detection."""
    partner, free = [-1] * num_detections, [True] * num_boxes
    for detection, box in zip(found.tolist(), boxes.tolist(), strict=True):
        if free[box] and partner[detection] < 0:
            partner[detection], free[box] = box, False
    return np.array(partner, dtype=int)


def confuse(matching: Matching, confidence: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pair what is left above a confidence with ground truth of other classes that no detection found.

    Returns:
        matrix: (C + 1, C + 1) counts; row: true class, column: predicted class; the last row counts detections on the
            background, the last column missed boxes. Each counted box is in one cell of its row, each counted
            detection in one cell of its column.
        partner: (D,) as :class:`Matching`'s, with the boxes of other classes; -1 for detections below ``confidence``.
    """
    kept = matching.kept(confidence)
    partner = np.where(kept, matching.partner, -1)
    free = ~matching.gt_crowd
    free[partner[partner >= 0]] = False
    found, boxes, ious = matching.pairs
    open_pairs = (kept & (partner < 0))[found] & free[boxes] & (ious >= min(matching.iou_thr, 1 - 1e-10))
    other = _greedy(found[open_pairs], boxes[open_pairs], len(partner), len(free))
    partner = np.where(partner < 0, other, partner)
    classes = len(matching.class_names)
    matrix = np.zeros((classes + 1, classes + 1), dtype=int)
    rows = np.where(partner >= 0, matching.gt_label[partner] if len(free) else classes, classes)
    np.add.at(matrix, (rows[kept], matching.label[kept]), 1)
    missed = ~matching.gt_crowd
    missed[partner[partner >= 0]] = False
    np.add.at(matrix, (matching.gt_label[missed], classes), 1)
    return matrix, partner


def average_precision(label, true, counted, gt_counts) -> np.ndarray:
    """Return COCO's average precision (C,) of one IoU: the mean of the precision at 101 recalls.

    Args:
        label: (D,) of detections in the order of falling scores.
        true: (D,) bool, true positives.
        counted: (D,) bool; False for ignored or removed detections.
        gt_counts: (C,); classes without ground truth get NaN.
    """
    answer = np.full(len(gt_counts), np.nan)
    for index in np.flatnonzero(gt_counts):
        hits = true[counted & (label == index)]
        positives = np.cumsum(hits)
        precision = np.maximum.accumulate((positives / np.arange(1, len(hits) + 1))[::-1])[::-1]
        at = np.searchsorted(positives / gt_counts[index], RECALLS, side='left')
        answer[index] = np.append(precision, 0)[np.minimum(at, len(hits))].mean()
    return answer


@dataclass
class Curve:
    """Precision, recall and F1 (K,) of the detections from each of K falling confidences on."""

    confidence: np.ndarray
    precision: np.ndarray
    recall: np.ndarray
    f1: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    def best(self, min_precision: float | None = None) -> int:
        """Return where F1 is highest, or where recall is highest with at least a precision; -1 without detections.

        Of equal values, the highest confidence counts. If the precision is never reached, its maximum is returned.
        """
        if not len(self.confidence):
            return -1
        if min_precision is None:
            return int(np.argmax(self.f1))
        enough = self.precision >= min_precision
        return int(np.argmax(np.where(enough, self.recall, -1)) if enough.any() else np.argmax(self.precision))


def curve(matching: Matching, label: int | None = None) -> Curve:
    """Return precision, recall and F1 at each confidence that occurs, of one class or, summed, of all."""
    chosen = ~matching.ignored if label is None else ~matching.ignored & (matching.label == label)
    score, true = matching.score[chosen], matching.partner[chosen] >= 0
    count = matching.gt_counts.sum() if label is None else matching.gt_counts[label]
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True)) if len(score) else np.empty(0, int)
    positives = np.cumsum(true)[last]
    detections = last + 1
    precision, recall = positives / detections, positives / max(count, 1)
    f1 = 2 * positives / np.maximum(detections + count, 1)
    return Curve(score[last], precision, recall, f1, positives, detections - positives)


def calibration(matching: Matching, min_score: float = 0.05, label: int | None = None) -> tuple[list[dict], float]:
    """Compare confidence and precision of the detections from ``min_score`` on, in ten bins of equal width.

    Returns:
        Of each bin that is not empty: ``low``, ``high``, ``count``, mean ``confidence`` and ``precision``; and the
        expected calibration error, the mean of ``|precision - confidence|`` of the bins, weighted by their counts.
    """
    chosen = matching.kept(min_score)
    if label is not None:
        chosen &= matching.label == label
    score, true = matching.score[chosen], matching.partner[chosen] >= 0
    bins = np.minimum((score * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = []
    for index in np.unique(bins):
        inside = bins == index
        means = {'confidence': float(score[inside].mean()), 'precision': float(true[inside].mean())}
        rows.append({'low': index / NUM_BINS, 'high': (index + 1) / NUM_BINS, 'count': int(inside.sum()), **means})
    gaps = [row['count'] * abs(row['precision'] - row['confidence']) for row in rows]
    return rows, sum(gaps) / max(len(score), 1)
