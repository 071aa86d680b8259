"""All numbers of a report, from ground truth and detections, as plain data."""

import contextlib
import io
from importlib.util import find_spec

import numpy as np

from mmyolo_ext.evaluation.errors import MEANINGS, TYPES, Errors, costs, find_errors
from mmyolo_ext.evaluation.matching import Curve, Matching, calibration, confuse, curve

AP_NAMES = ('ap', 'ap50', 'ap75', 'ap_small', 'ap_medium', 'ap_large')
SIZES = {'small': (0, 32**2), 'medium': (32**2, 96**2), 'large': (96**2, 1e10)}  # areas of COCO, px
CALIBRATION_FROM = 0.05  # the many detections of lower scores would hide the others in the mean


def coco_ap(gt: dict, detections: list[dict]) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return the average precisions as mmdet logs them, of all classes and of each, by the evaluator of COCO.

    NaN where there is no ground truth. faster-coco-eval is used if it is installed, else pycocotools.
    """
    if not detections:
        return _no_detections(gt)
    is_fast = find_spec('faster_coco_eval') is not None
    if is_fast:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as COCOeval
    else:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval
    # ids from 1: the evaluation reads a match with id 0 as no match
    annotations = [
        {'area': entry['bbox'][2] * entry['bbox'][3], 'iscrowd': 0, **entry, 'id': at}
        for at, entry in enumerate(gt['annotations'], 1)
    ]
    keys = ('image_id', 'category_id', 'bbox', 'score')
    with contextlib.redirect_stdout(io.StringIO()):  # the evaluators print
        truth = COCO()
        truth.dataset = {**gt, 'annotations': annotations}
        truth.createIndex()
        found = truth.loadRes([{key: entry[key] for key in keys} for entry in detections])
        evaluator = COCOeval(truth, found, iouType='bbox')
        evaluator.params.maxDets = [100, 300, 1000]  # of mmdet
        evaluator.evaluate()
        evaluator.accumulate()
    precision = np.asarray(evaluator.eval['precision'])  # (IoUs, recalls, C, sizes, limits)
    limit = 2 if is_fast else 0  # of the AP over all IoUs: pycocotools takes the first, faster-coco-eval the last
    order = [evaluator.params.catIds.index(category['id']) for category in gt['categories']]

    def mean(part: np.ndarray) -> float:
        part = part[part > -1]
        return float(part.mean()) if part.size else float('nan')

    def row(chosen: np.ndarray) -> dict[str, float]:
        parts = (chosen[:, :, :, 0, limit], chosen[0, :, :, 0, 2], chosen[5, :, :, 0, 2])
        return dict(zip(AP_NAMES, map(mean, (*parts, *(chosen[:, :, :, at, 2] for at in (1, 2, 3)))), strict=True))

    return row(precision), [row(precision[:, :, [at]]) for at in order]


def _no_detections(gt: dict) -> tuple[dict[str, float], list[dict[str, float]]]:
    """Return an AP of 0 for the classes that have ground truth."""
    present = {entry['category_id'] for entry in gt['annotations'] if not entry.get('iscrowd')}

    def row(is_present: bool) -> dict[str, float]:
        return dict.fromkeys(AP_NAMES, 0.0 if is_present else float('nan'))

    return row(bool(present)), [row(category['id'] in present) for category in gt['categories']]


class Numbers:
    """What a report shows, computed once.

    Args:
        gt: COCO JSON.
        detections: As in :func:`mmyolo_ext.evaluation.matching.match`.
        matching: Of both.
        min_precision: If given, the operating point has the highest recall with at least this precision, in place of
            the highest F1.

    Attributes:
        confidence: Of the operating point.
        matrix, partner: Of :func:`mmyolo_ext.evaluation.matching.confuse` at the operating point.
        errors: At the operating point.
        curves: Of all classes together, then of each class.
    """

    def __init__(
        self, gt: dict, detections: list[dict], matching: Matching, min_precision: float | None = None
    ) -> None:
        self.matching, names = matching, matching.class_names
        self.ap, self.class_ap = coco_ap(gt, detections)
        self.curves = [curve(matching), *(curve(matching, label) for label in range(len(names)))]
        best = [one.best(min_precision) for one in self.curves]
        points = [_point(one, at) for one, at in zip(self.curves, best, strict=True)]
        self.rule = 'maximises F1' if min_precision is None else f'keeps a precision of {min_precision:g}'
        self.confidence = points[0]['confidence']
        self.matrix, self.partner = confuse(matching, self.confidence)
        self.errors: Errors = find_errors(matching, self.confidence)
        self.bins, self.ece = calibration(matching, CALIBRATION_FROM)
        self.point = {**points[0], 'rule': self.rule, 'per_class': dict(zip(names, points[1:], strict=True))}
        self.per_class = self._classes()
        self.costs = costs(matching)
        self.check()

    def _classes(self) -> list[dict]:
        """Return a row of each class, with counts at the operating point."""
        matching, rows = self.matching, []
        kept = matching.kept(self.confidence)
        found = np.zeros(len(matching.gt_label), dtype=bool)
        found[matching.partner[kept & (matching.partner >= 0)]] = True
        for label, name in enumerate(matching.class_names):
            boxes = (matching.gt_label == label) & ~matching.gt_crowd
            detections = kept & (matching.label == label)
            hits, number, total = int(found[boxes].sum()), int(detections.sum()), int(boxes.sum())
            row = {'name': name, 'ground_truth': total, 'detections': number, 'true_positives': hits}
            row |= {'precision': _ratio(hits, number), 'recall': _ratio(hits, total)}
            row |= {'f1': _ratio(2 * hits, number + total), **self.class_ap[label]}
            for size, (low, high) in SIZES.items():
                inside = boxes & (matching.gt_area >= low) & (matching.gt_area < high)
                row |= {f'{size}_ground_truth': int(inside.sum())}
                row |= {f'recall_{size}': _ratio(int(found[inside].sum()), int(inside.sum()))}
            row['ece'] = calibration(matching, CALIBRATION_FROM, label)[1]
            rows.append({**row, 'best_confidence': self.point['per_class'][name]['confidence']})
        return rows

    def check(self) -> None:
        """Check that curve, matrix, error types and class table agree.

        Raises:
            RuntimeError: If not, which is a fault of this module.
        """
        matrix, counts = self.matrix, self.errors.counts()
        kept = self.matching.kept(self.confidence)
        hits = int(np.trace(matrix[:-1, :-1]))
        false = sum(count for name, count in counts.items() if name != 'missed')
        equal = {
            'TP + confused + missed = ground truth': (matrix[:-1].sum(), self.matching.gt_counts.sum()),
            'TP + confused + background = detections': (matrix[:, :-1].sum(), kept.sum()),
            'TP of matrix and curve': (hits, self.point['true_positives']),
            'TP of matrix and class table': (hits, sum(row['true_positives'] for row in self.per_class)),
            'errors = detections - TP': (false, kept.sum() - hits),
        }
        broken = {name: (int(a), int(b)) for name, (a, b) in equal.items() if a != b}
        if broken:
            raise RuntimeError(f'numbers of the report differ: {broken}')

    def as_json(self) -> dict:
        """Return what ``report.json`` holds."""
        names = [*self.matching.class_names, 'background']
        matrix = {'classes': names, 'rows': 'true class', 'columns': 'predicted class', 'counts': self.matrix.tolist()}
        counts = self.errors.counts()
        return {
            'iou_threshold': self.matching.iou_thr,
            **self.ap,
            'operating_point': self.point,
            'per_class': self.per_class,
            'matrix': matrix,
            'errors': {name: {'count': counts[name], 'ap50_cost': self.costs[name]} for name in TYPES},
            'calibration': {'from_score': CALIBRATION_FROM, 'ece': self.ece, 'bins': self.bins},
        }

    def meaning(self, name: str) -> str:
        """Return what an error type means, with the thresholds."""
        return MEANINGS[name].format(low=0.1, high=self.matching.iou_thr)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else float('nan')


def _point(one: Curve, at: int) -> dict:
    """Return the operating point of a curve; without detections, at confidence 1 with no hits."""
    if at < 0:
        zeros = dict.fromkeys(('precision', 'recall', 'f1'), 0.0)
        return {'confidence': 1.0, **zeros, 'true_positives': 0, 'false_positives': 0}
    names = ('confidence', 'precision', 'recall', 'f1')
    point = {name: float(getattr(one, name)[at]) for name in names}
    counts = {name: int(getattr(one, name)[at]) for name in ('true_positives', 'false_positives')}
    return {**point, **counts}
