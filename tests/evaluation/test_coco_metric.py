"""AP worked out by hand, equal by both evaluators."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as PycocotoolsMetric
from mmengine.registry import METRICS

import mmyolo_ext  # noqa: F401
from mmyolo_ext.evaluation import CocoMetric

CLASSES = ('cat', 'dog')


@pytest.fixture
def ann_file(tmp_path):
    """Two pictures of 100 x 100 px: a cat of 40 x 40 px on each, and a dog on the second."""
    boxes = [(1, 1, [10, 10, 40, 40]), (2, 1, [10, 10, 40, 40]), (2, 2, [50, 50, 40, 40])]
    content = {
        'images': [{'id': i, 'width': 100, 'height': 100, 'file_name': f'{i}.jpg'} for i in (1, 2)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)],
        'annotations': [
            {'id': k, 'image_id': image, 'category_id': label, 'bbox': box, 'area': box[2] * box[3], 'iscrowd': 0}
            for k, (image, label, box) in enumerate(boxes, 1)
        ],
    }
    path = tmp_path / 'truth.json'
    path.write_text(json.dumps(content))
    return str(path)


def sample(img_id: int, boxes: list, scores: list, labels: list) -> dict:
    return {
        'img_id': img_id,
        'ori_shape': (100, 100),
        'pred_instances': {
            'bboxes': torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
            'scores': torch.tensor(scores, dtype=torch.float32),
            'labels': torch.tensor(labels, dtype=torch.long),
        },
    }


def evaluate(metric, samples: list[dict]) -> dict[str, float]:
    metric.dataset_meta = {'classes': CLASSES}
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def test_ap_by_hand(ann_file):
    samples = [sample(1, [[10, 10, 50, 50]], [0.9], [0]), sample(2, [[50, 50, 90, 70]], [0.8], [1])]
    result = evaluate(CocoMetric(ann_file=ann_file), samples)
    # cat: one of two found, exactly: precision 1 up to recall 1/2, that is at 51 of 101 recalls, for every threshold
    assert result['coco/cat_precision'] == pytest.approx(51 / 101, abs=5e-4)
    # dog: IoU 40 x 20 / 40 x 40 = 0.5: right at threshold 0.5 alone, one of ten
    assert result['coco/dog_precision'] == pytest.approx(0.1, abs=5e-4)
    assert result['coco/bbox_mAP'] == pytest.approx((51 / 101 + 0.1) / 2, abs=5e-4)
    assert result['coco/bbox_mAP_50'] == pytest.approx((51 / 101 + 1) / 2, abs=5e-4)


def test_both_evaluators_agree(ann_file):
    rng = np.random.RandomState(0)
    samples = []
    for img_id in (1, 2):
        corner = rng.uniform(0, 60, (40, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 40, (40, 2))], axis=1)
        samples.append(sample(img_id, boxes.tolist(), rng.uniform(0, 1, 40).tolist(), rng.randint(0, 2, 40).tolist()))
    ours = evaluate(CocoMetric(ann_file=ann_file), samples)
    theirs = evaluate(PycocotoolsMetric(ann_file=ann_file, classwise=True), samples)
    assert ours.keys() == theirs.keys() and 0 < ours['coco/bbox_mAP'] < 1
    for key in ours:
        assert ours[key] == pytest.approx(theirs[key], abs=1e-3, nan_ok=True), key


def test_the_file_of_detections_is_that_of_mmdet(ann_file, tmp_path):
    samples = [sample(1, [[10.3, 10, 50.7, 50], [0, 0, 1e-3, 9]], [0.9, 1 / 3], [0, 1]), sample(2, [], [], [])]
    written, boxes = [], samples[0]['pred_instances']['bboxes'].clone()
    for kind in (CocoMetric, PycocotoolsMetric):
        prefix = str(tmp_path / kind.__module__)
        evaluate(kind(ann_file=ann_file, outfile_prefix=prefix), samples)
        written.append(json.loads(Path(f'{prefix}.bbox.json').read_text()))
    assert written[0] == written[1]
    # float32 in double: 10.3 is 10.300000190734863, and 50.70000076293945 less that is 40.40000057220459
    assert written[0][0]['bbox'] == pytest.approx([10.300000190734863, 10, 40.40000057220459, 40], rel=1e-15)
    assert len(written[0]) == 2
    assert torch.equal(samples[0]['pred_instances']['bboxes'], boxes)


def test_predicting_nothing_scores_zero(ann_file):
    result = evaluate(CocoMetric(ann_file=ann_file), [sample(1, [], [], []), sample(2, [], [], [])])
    assert result['coco/bbox_mAP'] == result['coco/dog_precision'] == 0.0
    result = evaluate(CocoMetric(ann_file=ann_file, classwise=False), [sample(1, [], [], []), sample(2, [], [], [])])
    assert 'coco/dog_precision' not in result


def test_other_metrics_are_refused():
    with pytest.raises(ValueError, match='mmdet.CocoMetric'):
        METRICS.build({'type': 'mmyolo_ext.CocoMetric', 'metric': 'segm'})


@pytest.mark.parametrize('base', [None, PycocotoolsMetric])
def test_an_annotation_numbered_zero_counts(ann_file, tmp_path, base):
    content = json.loads(Path(ann_file).read_text())
    for number, annotation in enumerate(content['annotations']):
        annotation['id'] = number
    path = tmp_path / 'from_zero.json'
    path.write_text(json.dumps(content))
    found = [
        sample(1, [[10, 10, 50, 50]], [0.9], [0]),
        sample(2, [[10, 10, 50, 50], [50, 50, 90, 90]], [0.9, 0.8], [0, 1]),
    ]
    if base is None:  # all three boxes are found
        assert evaluate(CocoMetric(ann_file=str(path)), found)['coco/bbox_mAP'] == pytest.approx(1)
    else:  # what mmdet's metric makes of it
        assert evaluate(base(ann_file=str(path)), found)['coco/bbox_mAP'] < 0.8
