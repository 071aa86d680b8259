"""Label errors and copies injected into BCCD are suspected, with the precision and recall that the guide states."""

import json
import re
import shutil
from collections import Counter
from copy import deepcopy
from pathlib import Path

import cv2
import numpy as np
import pytest

from mmyolo_ext.apis import Detector
from mmyolo_ext.datasets import find_dataset
from mmyolo_ext.datasets.data_check import check_splits, inspect_splits
from mmyolo_ext.datasets.data_section import run_data_section
from mmyolo_ext.datasets.label_errors import iou, read_detections, suspect_labels
from mmyolo_ext.datasets.raw_labels import RawSplit, read_split
from mmyolo_ext.datasets.sources import build

REPO = Path(__file__).parents[2]
NAMES = ('RBC', 'WBC', 'Platelets')
KINDS = ('label-missing', 'label-misplaced', 'label-class')
INJECTED = 30  # of each kind


def slow_iou(a: list, b: list) -> float:
    overlap = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    return overlap / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - overlap)


def test_iou_by_hand():
    rng = np.random.RandomState(0)
    boxes = np.concatenate([low := rng.uniform(0, 50, (20, 2)), low + rng.uniform(1, 40, (20, 2))], 1)
    expected = [[slow_iou(a, b) for b in boxes[:7]] for a in boxes]
    assert iou(boxes, boxes[:7]) == pytest.approx(np.array(expected))


def read_bccd(folder: Path) -> dict[str, RawSplit]:
    splits = find_dataset(folder).splits
    return {name: read_split(name, {**config, 'metainfo': {'classes': NAMES}}) for name, config in splits.items()}


def inject(split: RawSplit, seed: int) -> tuple[RawSplit, list[tuple[str, str, np.ndarray]]]:
    """Remove, shift by 0.3 to 0.5 of their sides, and relabel boxes; return the split and (kind, image, box)."""
    rng, split = np.random.RandomState(seed), deepcopy(split)
    boxes = split.boxes_xyxy
    sides = boxes[:, 2:] - boxes[:, :2]
    removed, shifted, relabelled = rng.permutation(np.flatnonzero((sides > 0).all(1)))[: 3 * INJECTED].reshape(3, -1)
    angle, far = rng.uniform(0, 2 * np.pi, INJECTED), rng.uniform(0.3, 0.5, INJECTED)
    offset = (far * np.stack([np.cos(angle), np.sin(angle)])).T * sides[shifted]
    split.numbers[shifted] += np.tile(offset, 2)
    split.labels[relabelled] = (split.labels[relabelled] + rng.randint(1, 3, INJECTED)) % 3
    changed = split.boxes_xyxy
    truth = [
        (kind, split.paths[split.image[index]], changed[index])
        for kind, own in zip(KINDS, (removed, shifted, relabelled), strict=True)
        for index in own
    ]
    kept = np.setdiff1d(np.arange(len(boxes)), removed)
    for name in ('numbers', 'image', 'labels', 'ignored', 'areas', 'outlines'):
        setattr(split, name, getattr(split, name)[kept])
    split.where = [split.where[index] for index in kept]
    return split, truth


def hits(suspicion: tuple, others: list[tuple[str, str, np.ndarray]], least: float = 0.5) -> list[int]:
    _, path, box, _ = suspicion
    return [k for k, (_, other, own) in enumerate(others) if other == path and slow_iou(box, own) >= least]


BOX = [10, 10, 30, 30]
# detections (x1, y1, x2, y2, score, label) on an image whose only box is BOX of class 0, and what is suspected
RULES = {
    'nothing': ([(*BOX, 0.9, 0)], []),
    'no detection': ([], ['label-undetected']),
    'a faint detection is none': ([(*BOX, 0.04, 0)], ['label-undetected']),
    'an IoU of 0.33 is a detection': ([(20, 10, 40, 30, 0.08, 0)], []),
    'another class, more confident by 0.1': ([(*BOX, 0.7, 1), (*BOX, 0.6, 0)], []),
    'another class, more confident by 0.2': ([(*BOX, 0.8, 1), (*BOX, 0.6, 0)], ['label-class']),
    'another class at 0.16': ([(*BOX, 0.16, 1)], ['label-class']),
    'another class at 0.14': ([(*BOX, 0.14, 1)], []),
    'beside its place, IoU 0.33': ([(20, 10, 40, 30, 0.5, 0)], ['label-misplaced']),
    'beside its place at 0.11': ([(20, 10, 40, 30, 0.11, 0)], ['label-misplaced']),
    'beside its place at 0.09': ([(20, 10, 40, 30, 0.09, 0)], []),
    'in its place, IoU 0.67': ([(14, 10, 34, 30, 0.5, 0)], []),
    'beside and in its place': ([(20, 10, 40, 30, 0.3, 0), (*BOX, 0.5, 0)], []),
    'elsewhere': ([(*BOX, 0.5, 0), (50, 50, 60, 60, 0.41, 1)], ['label-missing']),
    'elsewhere at 0.39': ([(*BOX, 0.5, 0), (50, 50, 60, 60, 0.39, 1)], []),
    'elsewhere, twice': ([(*BOX, 0.5, 0), (50, 50, 60, 60, 0.9, 1), (50, 50, 60, 61, 0.8, 0)], ['label-missing']),
}


@pytest.mark.parametrize('name', RULES)
def test_rules(name):
    rows, expected = RULES[name]
    content = {
        'images': [{'id': 1, 'file_name': 'a.png', 'width': 100, 'height': 80}],
        'annotations': [{'id': 1, 'image_id': 1, 'category_id': 5, 'bbox': [10, 10, 20, 20]}],
        'categories': [{'id': 5, 'name': 'ant'}, {'id': 6, 'name': 'bee'}],
    }
    split = read_split('val', (content, '.'))
    detections = {split.paths[0]: np.array(rows, np.float64).reshape(-1, 6)}
    assert [check for check, *_ in suspect_labels([split], detections)] == expected
    split.ignored[:] = True  # what an ignore region covers is no suspicion
    assert {check for check, *_ in suspect_labels([split], detections)} <= {'label-missing'}


@pytest.fixture(scope='module')
def detected(bccd_dir, golden_dir):
    """The test split of BCCD, whose 72 images the checkpoint has not seen, and detections on them."""
    config = REPO / 'configs' / 'yolov5' / 'yolov5_n_320_bccd.py'
    detector = Detector(config, golden_dir / 'yolov5n_bccd.pt', nms_iou=None)
    test, detections = read_bccd(bccd_dir)['test'], {}
    for path in test.paths:
        found = detector(path, score_thr=0.05)
        detections[path] = np.column_stack([found.boxes_xyxy, found.scores, found.labels])
    return test, detections


def test_injected_label_errors_are_suspected(detected):
    test, detections = detected
    before = [one for one in suspect_labels([test], detections) if one[0] in KINDS]
    known = [(kind, path, np.array(box)) for kind, path, box, _ in before]
    recalls, precisions, plain = [], [], []
    for seed in range(5):
        split, truth = inject(test, seed)
        suspicions = [one for one in suspect_labels([split], detections) if one[0] in KINDS]
        found = [hits(one, truth) for one in suspicions]
        # BCCD lacks the boxes of many cells: what its own labels raise as well is no mistake of the check
        wrong = [one for one, own in zip(suspicions, found, strict=True) if not own and not hits(one, known, 0.9)]
        right = sum(map(bool, found))
        hit = sorted(set().union(*found))  # positions in truth, which has 30 of each kind in turn
        recalls.append(np.bincount(np.array(hit) // INJECTED, minlength=3) / INJECTED)
        precisions.append(right / (right + len(wrong)))
        plain.append(right / len(suspicions))
    assert np.mean(recalls) == pytest.approx(0.88, abs=0.02)
    assert np.mean(recalls, axis=0) == pytest.approx([0.79, 0.89, 0.94], abs=0.03)  # removed, shifted, relabelled
    assert np.mean(precisions) == pytest.approx(0.95, abs=0.02)
    assert np.mean(plain) == pytest.approx(0.16, abs=0.01)  # against the injected errors alone


def test_report_and_check_suspect_the_same(detected, bccd_dir, tmp_path):
    """The report has detections of a dataset, the check reads them from the report's files."""
    test, detections = detected
    dataset = build({**find_dataset(bccd_dir).splits['test'], 'metainfo': {'classes': NAMES}})
    dataset.full_init()
    ids = {info['img_path']: info['img_id'] for info in map(dataset.get_data_info, range(len(dataset)))}
    results = [
        {
            'image_id': ids[path],
            'category_id': dataset.cat_ids[int(label)],
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'score': score,
        }
        for path, rows in detections.items()
        for x1, y1, x2, y2, score, label in rows.tolist()
    ]
    section = run_data_section({'test': dataset}, 'test', results)
    (tmp_path / 'detections.json').write_text(json.dumps(results))
    (tmp_path / 'ground_truth.json').write_text(json.dumps(dataset.to_coco()))
    read = read_detections(tmp_path / 'detections.json', [test])
    counts = Counter(check for check, *_ in suspect_labels([test], read))
    assert counts == Counter(check for check, *_ in suspect_labels([test], detections)) and len(counts) == 4
    for check, count in counts.items():
        assert re.search(rf': {count:,}<span class="name">{check}</span>', section)


def test_copies_between_splits_are_found(bccd_dir, tmp_path):
    """Ten training images as copies among those of validation: five as they are, five at half size, quality 50."""
    raw = read_bccd(bccd_dir)
    facts = inspect_splits(list(raw.values()))
    own = {one.check: one.items for one in check_splits(list(raw.values()), facts)}
    assert 'leak-copy' not in own
    assert [Path(item['image']).stem[-3:] for item in own['leak-near']] == ['037']  # BCCD's own: it is image 038
    rng = np.random.RandomState(0)
    chosen = [raw['train'].paths[index] for index in rng.permutation(len(raw['train'].paths))[:10]]
    names = []
    for number, path in enumerate(chosen):
        target = tmp_path / f'{number}.jpg'
        if number < 5:
            shutil.copy(path, target)
        else:
            image = cv2.resize(cv2.imread(path), None, fx=0.5, fy=0.5)
            cv2.imwrite(str(target), image, [cv2.IMWRITE_JPEG_QUALITY, 50])
        names.append(str(target))
    raw['val'].paths += names
    raw['val'].sizes_wh = np.concatenate([raw['val'].sizes_wh, np.full((10, 2), np.nan)])
    found = {one.check: one.items for one in check_splits(list(raw.values()), inspect_splits(list(raw.values())))}
    assert [item['image'] for item in found['leak-copy']] == names[:5]
    assert {item['image'] for item in found['leak-near']} == {*names[5:], own['leak-near'][0]['image']}
