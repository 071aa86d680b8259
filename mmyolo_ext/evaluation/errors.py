"""Error types of detections and the average precision that each costs.

Reference: D. Bolya, S. Foley, J. Hays, J. Hoffman, "TIDE: A General Toolbox for Identifying Object Detection Errors",
ECCV 2020.
"""

from dataclasses import dataclass

import numpy as np

from mmyolo_ext.evaluation.matching import BACKGROUND_IOU, Matching, average_precision

NONE, LOCALIZATION, CLASSIFICATION, DUPLICATE, BACKGROUND, BOTH = range(6)
TYPES = ('classification', 'localization', 'both', 'duplicate', 'background', 'missed')
CODES = {
    'classification': CLASSIFICATION,
    'localization': LOCALIZATION,
    'both': BOTH,
    'duplicate': DUPLICATE,
    'background': BACKGROUND,
}
MEANINGS = {
    'classification': 'an object was found, but with the wrong class',
    'localization': 'the right class, but the box is not tight enough (IoU {low:g} to {high:g})',
    'both': 'wrong class and a box that is not tight enough',
    'duplicate': 'an object that a detection with a higher score has found already',
    'background': 'a detection where no object is (IoU below {low:g})',
    'missed': 'an object that no detection found, not even with the wrong class or a loose box',
}


@dataclass
class Errors:
    """The error of each detection, and the boxes missed, from a confidence on.

    Attributes:
        code: (D,) one of the constants of this module; NONE for true positives and detections that do not count.
        target: (D,) the ground truth box that a localization or classification error belongs to, else -1.
        missed: (G,) bool.
    """

    code: np.ndarray
    target: np.ndarray
    missed: np.ndarray

    def counts(self) -> dict[str, int]:
        """Return the number of errors of each type."""
        return {name: int((self.code == CODES[name]).sum() if name in CODES else self.missed.sum()) for name in TYPES}


def find_errors(matching: Matching, confidence: float | np.ndarray = 0.0) -> Errors:
    """Assign each false positive from a confidence on to one type, tested in this order (paper, section 2.2).

    1. localization: the highest IoU with its class is in [0.1, iou_thr);
    2. classification: the IoU with another class is at least ``iou_thr``;
    3. duplicate: the IoU with its class is at least ``iou_thr``, but a higher score has the box;
    4. background: every IoU is below 0.1;
    5. both: the rest, boxes of another class in [0.1, iou_thr).

    Missed are the boxes that neither a true positive nor an error of type 1 or 2 belongs to.
    """
    kept = matching.kept(confidence)
    found, boxes, ious = matching.pairs
    is_same = matching.label[found] == matching.gt_label[boxes]
    best, of = [], []
    for chosen in (is_same, ~is_same):
        iou, box = np.zeros(len(kept)), np.full(len(kept), -1)
        first = np.unique(found[chosen], return_index=True)[1]  # pairs are ordered by falling IoU
        iou[found[chosen][first]], box[found[chosen][first]] = ious[chosen][first], boxes[chosen][first]
        best.append(iou)
        of.append(box)
    (same, other), (same_box, other_box) = best, of
    high = min(matching.iou_thr, 1 - 1e-10)
    tests = [(same >= BACKGROUND_IOU) & (same < high), other >= high, same >= high, other < BACKGROUND_IOU]
    code = np.select(tests, [LOCALIZATION, CLASSIFICATION, DUPLICATE, BACKGROUND], BOTH)
    code[~kept | (matching.partner >= 0)] = NONE
    target = np.select([code == LOCALIZATION, code == CLASSIFICATION], [same_box, other_box], -1)
    missed = ~matching.gt_crowd
    hits = matching.partner[kept & (matching.partner >= 0)]
    missed[hits] = False
    missed[target[target >= 0]] = False
    return Errors(code, target, missed)


def costs(matching: Matching) -> dict[str, float]:
    """Return by how much the AP (of ``matching.iou_thr``, all detections) rises without the errors of each type.

    A localization or classification error becomes a true positive of the box it belongs to, if that box has none yet
    (of several, the one with the highest score); the others are removed, as are errors of the types both, duplicate
    and background. Missed boxes are taken out of the ground truth. Classes without ground truth are left out.
    """
    errors = find_errors(matching)
    counts = matching.gt_counts
    true, kept = matching.partner >= 0, ~matching.ignored
    before = np.nanmean(average_precision(matching.label, true, kept, counts)) if counts.any() else np.nan
    answer = {}
    for name in TYPES:
        label, hits, stay, left = matching.label.copy(), true.copy(), kept.copy(), counts
        if name == 'missed':
            left = counts - np.bincount(matching.gt_label[errors.missed], minlength=len(counts))
        else:
            of_type = np.flatnonzero(errors.code == CODES[name])
            stay[of_type] = False
            free = np.ones(len(matching.gt_label) + 1, dtype=bool)
            free[matching.partner[true]] = False
            fixable = of_type[(errors.target[of_type] >= 0) & free[errors.target[of_type]]]
            fixed = fixable[np.unique(errors.target[fixable], return_index=True)[1]]
            stay[fixed], hits[fixed], label[fixed] = True, True, matching.gt_label[errors.target[fixed]]
        after = np.nanmean(average_precision(label, hits, stay, left)) if left.any() else np.nan
        answer[name] = float(after - before)
    return answer
