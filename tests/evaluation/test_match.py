"""Matching, curves, matrix, error types, their costs and calibration, against slow counts and pycocotools."""

import contextlib
import io
import resource
import time

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from report_cases import SlowCount, make_case

from mmyolo_ext.evaluation.errors import CODES, TYPES, costs, find_errors
from mmyolo_ext.evaluation.matching import average_precision, calibration, confuse, curve, match
from mmyolo_ext.evaluation.report.numbers import Numbers, coco_ap

SEEDS = (0, 1, 2)


def by_pycocotools(gt: dict, detections: list[dict]) -> COCOeval:
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        truth.dataset = gt
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes([dict(one) for one in detections]), 'bbox')
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return evaluator


@pytest.mark.parametrize('confidence', [0.0, 0.3, 0.6])
@pytest.mark.parametrize('seed', SEEDS)
def test_counts_equal_a_slow_count(seed, confidence):
    gt, detections = make_case(seed)
    matching, slow = match(gt, detections), SlowCount(gt, detections, confidence)
    matrix, _ = confuse(matching, confidence)
    assert matrix.tolist() == slow.matrix().tolist()
    assert slow.matrix()[:-1].sum() == len(slow.boxes)  # TP + confused + missed
    assert slow.matrix()[:, :-1].sum() == len(slow.true) + len(slow.false)  # TP + confused + background
    kept = matching.kept(confidence)
    assert (kept.sum(), (matching.partner[kept] >= 0).sum()) == (len(slow.true) + len(slow.false), len(slow.true))
    errors, (types, _) = find_errors(matching, confidence), slow.errors()
    assert errors.counts() == {name: len(types[name]) for name in TYPES}
    assert {gt['annotations'][at]['id'] for at in np.flatnonzero(errors.missed)} == set(types['missed'])
    for name, code in CODES.items():
        scores = sorted(detections[at]['score'] for at in types[name])
        assert sorted(matching.score[errors.code == code]) == scores
    assert calibration(matching, confidence)[1] == pytest.approx(slow.calibration_error())


@pytest.mark.parametrize('seed', SEEDS)
def test_costs_equal_a_slow_count(seed):
    gt, detections = make_case(seed)
    slow = SlowCount(gt, detections)
    expected = {name: slow.mended(name) - slow.plain_ap() for name in TYPES}
    assert costs(match(gt, detections)) == pytest.approx(expected)
    assert max(expected.values()) > 0.02  # the case has something to mend


@pytest.mark.parametrize('seed', SEEDS)
def test_the_operating_point_has_the_highest_f1(seed):
    gt, detections = make_case(seed)
    matching = match(gt, detections)
    for label, category in enumerate([None, *gt['categories']], -1):
        best = (-1.0, 0.0, 0.0, 0.0)
        for confidence in sorted({one['score'] for one in detections}):
            slow = SlowCount(gt, detections, confidence)
            wanted = {category['id']} if category else {one['category_id'] for one in slow.boxes}
            true = sum(box['category_id'] in wanted for box in slow.true.values())
            false = sum(detections[at]['category_id'] in wanted for at in slow.false)
            boxes = sum(box['category_id'] in wanted for box in slow.boxes)
            f1 = 2 * true / (true + false + boxes)
            best = max(best, (f1, confidence, true / max(true + false, 1), true / boxes))
        one = curve(matching, None if category is None else label)
        at = one.best()
        assert (one.f1[at], one.confidence[at], one.precision[at], one.recall[at]) == pytest.approx(best)
    strict = curve(matching)
    wanted = 0.8 * strict.precision.max()
    at = strict.best(min_precision=wanted)
    assert strict.precision[at] >= wanted
    assert strict.recall[at] == strict.recall[strict.precision >= wanted].max()


@pytest.mark.parametrize('seed', SEEDS)
def test_ap_equals_pycocotools(seed):
    gt, detections = make_case(seed, images=20)
    evaluator = by_pycocotools(gt, detections)
    matching = match(gt, detections)
    ours = average_precision(matching.label, matching.partner >= 0, ~matching.ignored, matching.gt_counts)
    assert ours == pytest.approx(evaluator.eval['precision'][0, :, :, 0, 2].mean(0), abs=1e-12)
    ap, by_class = coco_ap(gt, detections)
    assert list(ap.values()) == pytest.approx(
        np.where(evaluator.stats[:6] < 0, np.nan, evaluator.stats[:6]), nan_ok=True
    )
    assert [row['ap50'] for row in by_class] == pytest.approx(ours)
    tight = match(gt, detections, 0.75)
    tight = average_precision(tight.label, tight.partner >= 0, ~tight.ignored, tight.gt_counts)
    assert tight.mean() == pytest.approx(ap['ap75'])


def test_a_detection_prefers_its_own_class_though_a_higher_score_of_another_covers_the_box():
    gt = {
        'images': [{'id': 1, 'file_name': 'a.png', 'width': 100, 'height': 100}],
        'categories': [{'id': 1, 'name': 'cat'}, {'id': 2, 'name': 'dog'}],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 50, 50], 'area': 2500}],
    }
    wrong = {'image_id': 1, 'category_id': 2, 'bbox': [0, 0, 50, 50], 'score': 0.9}
    right = {'image_id': 1, 'category_id': 1, 'bbox': [0, 0, 50, 40], 'score': 0.5}
    matching = match(gt, [right, wrong])
    # both: one true positive, and a dog on the background; the misclassified box is not counted twice
    assert confuse(matching, 0.0)[0].tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 0]]
    assert confuse(matching, 0.6)[0].tolist() == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
    assert find_errors(matching).counts()['classification'] == 1
    with pytest.raises(ValueError, match='image_id 7 of a detection is not among the images'):
        match(gt, [{**right, 'image_id': 7}])
    with pytest.raises(ValueError, match='iou_thr must be above 0.1'):
        match(gt, [], 0.05)


@pytest.mark.parametrize('empty', ['detections', 'ground truth', 'both'])
def test_nothing_found_and_nothing_to_find(empty):
    gt, detections = make_case(0)
    if empty != 'detections':
        gt['annotations'] = []
    if empty != 'ground truth':
        detections = []
    numbers = Numbers(gt, detections, match(gt, detections))
    assert numbers.matrix[:-1, -1].sum() == numbers.matching.gt_counts.sum()
    assert numbers.errors.counts()['missed'] == numbers.matching.gt_counts.sum()
    assert numbers.ap['ap'] == 0.0 if empty == 'detections' else np.isnan(numbers.ap['ap'])


@pytest.mark.slow
def test_five_thousand_images_of_a_hundred_boxes():
    gt, detections = make_case(0, images=5000, boxes=20, found=100, classes=80)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    matching = match(gt, detections)
    best = curve(matching)
    confidence = best.confidence[best.best()]
    matrix, _ = confuse(matching, confidence)
    counts = find_errors(matching, confidence).counts()
    costs(matching), calibration(matching)
    for label in range(80):
        curve(matching, label).best()
    assert matrix[:, :-1].sum() - np.trace(matrix[:-1, :-1]) == sum(counts.values()) - counts['missed']
    assert time.process_time() - start < 60
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2 << 20  # KiB
