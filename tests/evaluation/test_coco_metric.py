"""AP worked out by hand, equal by both evaluators."""

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from mmdet.evaluation import CocoMetric as PycocotoolsMetric
from mmengine.registry import DATASETS, METRICS

import mmyolo_ext  # noqa: F401
from mmyolo_ext.evaluation import CocoMetric, coco_metric

CLASSES = ('cat', 'dog')


@pytest.fixture
def ann_file(tmp_path):
    """Two images of 100 x 100 px: a cat of 40 x 40 px on each, and a dog on the second."""
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


def test_a_file_without_faults_scores_as_by_pycocotools(tmp_path):
    """12 images with crowds, areas of masks and boxes of all sizes, 10 detections near them on each: to the digit."""
    rng = np.random.RandomState(1)
    annotations, samples = [], []
    for img_id in range(1, 13):
        side = rng.uniform(5, 200, (6, 2))
        corner = rng.uniform(0, 400 - side)
        for box in np.hstack([corner, side]).tolist():
            annotations.append(
                {
                    'id': len(annotations) + 1,
                    'image_id': img_id,
                    'category_id': int(rng.choice([1, 2])),
                    'bbox': box,
                    'area': box[2] * box[3] * 0.7,
                    'iscrowd': int(rng.rand() < 0.15),
                }
            )
        near = rng.randint(0, 6, 10)
        boxes = np.hstack([corner, corner + side])[near] + rng.uniform(-6, 6, (10, 4))
        labels = [annotations[k - 6]['category_id'] - 1 if rng.rand() < 0.8 else rng.randint(2) for k in near]
        samples.append(sample(img_id, boxes.tolist(), rng.uniform(0, 1, 10).tolist(), labels))
    content = {
        'images': [{'id': i, 'width': 400, 'height': 400, 'file_name': f'{i}.jpg'} for i in range(1, 13)],
        'categories': [{'id': i, 'name': name} for i, name in enumerate(CLASSES, 1)],
        'annotations': annotations,
    }
    path = tmp_path / 'random.json'
    path.write_text(json.dumps(content))
    ours = evaluate(CocoMetric(ann_file=str(path)), samples)
    assert ours == evaluate(PycocotoolsMetric(ann_file=str(path), classwise=True), samples)
    assert 0.1 < ours['coco/bbox_mAP'] < 0.9 and ours['coco/bbox_mAP_s'] > 0


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


def changed(ann_file: str, tmp_path: Path, *annotations: dict) -> str:
    """The file with more annotations, numbered from 4."""
    content = json.loads(Path(ann_file).read_text())
    for number, annotation in enumerate(annotations, 4):
        content['annotations'].append({'id': number, 'image_id': 1, 'category_id': 1, 'iscrowd': 0, **annotation})
    path = tmp_path / 'changed.json'
    path.write_text(json.dumps(content))
    return str(path)


PERFECT = (
    sample(1, [[10, 10, 50, 50]], [0.9], [0]),
    sample(2, [[10, 10, 50, 50], [50, 50, 90, 90]], [0.9, 0.8], [0, 1]),
)
FAULTY = (
    {'bbox': [60, 60, 0, 20]},
    {'bbox': [60, 60, 'a', 20]},
    {'bbox': [200, 60, 20, 20]},
    {'bbox': [60, 60, 0.5, 20]},
    {'bbox': [60, 60, 20, 20], 'image_id': 7},
    {'bbox': [60, 60, 20, 20], 'category_id': 7},
)


@pytest.fixture
def log(monkeypatch):
    """Messages of the metric, with their levels."""
    messages = []
    monkeypatch.setattr(coco_metric, 'print_log', lambda text, logger, level: messages.append((level, text)))
    return messages


def test_faulty_boxes_are_not_missed(ann_file, tmp_path, log):
    """One of five cats would be found at each place if the faulty ones counted."""
    path = changed(ann_file, tmp_path, *FAULTY)
    result = evaluate(CocoMetric(ann_file=path), PERFECT)
    assert result['coco/bbox_mAP'] == result['coco/cat_precision'] == result['coco/dog_precision'] == 1
    ((level, text),) = log
    assert level == logging.WARNING
    assert f'{path}: 6 of 9 annotations are not evaluated:' in text
    for reason in (
        '1 of zero or negative size (annotation 4)',
        '1 not four finite numbers (annotation 5)',
        '1 outside the image (annotation 6)',
        '1 under one pixel (annotation 7)',
        '1 of an unknown image (annotation 8)',
        '1 of an unknown category (annotation 9)',
    ):
        assert reason in text


def test_a_file_without_faults_is_not_reported(ann_file, log):
    evaluate(CocoMetric(ann_file=ann_file), PERFECT)
    assert not log


def test_annotations_of_another_class_are_reported(ann_file, log):
    metric = CocoMetric(ann_file=ann_file)
    metric.dataset_meta = {'classes': CLASSES[:1]}
    metric.process({}, [sample(i, [[10, 10, 50, 50]], [0.9], [0]) for i in (1, 2)])
    assert metric.evaluate(2)['coco/bbox_mAP'] == 1
    assert log == [(logging.INFO, f'{ann_file}: 1 of 3 annotations are not evaluated: 1 of another class')]


def test_boxes_are_cut_to_their_image(ann_file, tmp_path):
    """40 x 40 px of the box of 80 x 80 are inside: all of ten thresholds are met by a detection of these, where
    against the whole box, IoU 1/4, none is."""
    path = changed(ann_file, tmp_path, {'bbox': [60, 60, 80, 80], 'area': 6400})
    found = (sample(1, [[10, 10, 50, 50], [60, 60, 100, 100]], [0.9, 0.8], [0, 0]), PERFECT[1])
    metric = CocoMetric(ann_file=path)
    assert evaluate(metric, found)['coco/cat_precision'] == 1
    # 40 * 40 px: a medium box, and no longer a large one
    assert [annotation['area'] for annotation in metric._coco_api.dataset['annotations']] == [1600] * 4
    assert evaluate(PycocotoolsMetric(ann_file=path, classwise=True), found)['coco/cat_precision'] < 0.7


def test_marked_ignore_is_neither_right_nor_wrong(ann_file, tmp_path):
    path = changed(ann_file, tmp_path, {'bbox': [60, 60, 30, 30], 'area': 900, 'ignore': 1})
    there = sample(1, [[60, 60, 90, 90], [10, 10, 50, 50]], [0.95, 0.9], [0, 0])
    for first in (PERFECT[0], there):
        assert evaluate(CocoMetric(ann_file=path), (first, PERFECT[1]))['coco/cat_precision'] == 1


def test_area_and_crowd_may_be_missing(ann_file, tmp_path):
    content = json.loads(Path(ann_file).read_text())
    for annotation in content['annotations']:
        del annotation['area'], annotation['iscrowd']
    path = tmp_path / 'short.json'
    path.write_text(json.dumps(content))
    result = evaluate(CocoMetric(ann_file=str(path)), PERFECT)
    assert (result['coco/bbox_mAP_m'], result['coco/bbox_mAP_l']) == (1, -1)  # of 1600 px; COCO has -1 for none


def test_the_ground_truth_is_that_of_the_data_set(ann_file, tmp_path):
    crowd = {'bbox': [70, 70, 20, 20], 'iscrowd': 1}
    path = changed(ann_file, tmp_path, *FAULTY, {'bbox': [-5, 60, 80.5, 80]}, crowd)
    dataset = DATASETS.build(
        {
            'type': 'mmyolo_ext.CheckedCocoDataset',
            'ann_file': path,
            'data_prefix': {'img': ''},
            'metainfo': {'classes': CLASSES},
            'pipeline': [],
            'test_mode': True,
        }
    )
    metric = CocoMetric(ann_file=path)
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        theirs = [(*one['bbox'], one['bbox_label'] + 1, one['ignore_flag']) for one in info['instances']]
        ours = [
            (x, y, x + width, y + height, annotation['category_id'], annotation['iscrowd'])
            for annotation in metric._coco_api.imgToAnns[info['img_id']]
            for x, y, width, height in [annotation['bbox']]
        ]
        np.testing.assert_allclose(ours, theirs)
    assert dataset.report['boxes'] == len(metric._coco_api.anns) == 5


@pytest.mark.parametrize('predicted', [True, False])
def test_a_class_without_ground_truth_is_nan_and_not_in_the_mean(ann_file, tmp_path, predicted):
    content = json.loads(Path(ann_file).read_text())
    content['annotations'] = [one for one in content['annotations'] if one['category_id'] == 1]
    path = tmp_path / 'cats.json'
    path.write_text(json.dumps(content))
    result = evaluate(
        CocoMetric(ann_file=str(path)), PERFECT if predicted else [sample(i, [], [], []) for i in (1, 2)]
    )
    assert math.isnan(result['coco/dog_precision'])
    assert result['coco/cat_precision'] == result['coco/bbox_mAP'] == float(predicted)
    assert result['coco/bbox_mAP_s'] == -1  # COCO's own word for it


def test_samples_without_a_file(ann_file):
    """Ground truth from the data samples; one image without a box."""
    metric = CocoMetric()
    samples = [sample(1, [[10, 10, 50, 50]], [0.9], [0]), sample(2, [], [], [])]
    for one, boxes in zip(samples, ([[10.0, 10, 50, 50]], []), strict=True):
        instances = [{'bbox': box, 'bbox_label': 0} for box in boxes]
        labels = torch.zeros(len(boxes), dtype=torch.long)
        one |= {
            'instances': instances,
            'gt_instances': {'bboxes': torch.tensor(boxes).reshape(-1, 4), 'labels': labels},
        }
    result = evaluate(metric, samples)
    assert result['coco/cat_precision'] == 1 and math.isnan(result['coco/dog_precision'])
    empty = [{**one, **sample(one['img_id'], [], [], [])} for one in samples]
    assert evaluate(CocoMetric(), empty)['coco/cat_precision'] == 0


def test_images_without_a_result_are_named(ann_file):
    metric = CocoMetric(ann_file=ann_file)
    metric.dataset_meta = {'classes': CLASSES}
    metric.process({}, [PERFECT[1], PERFECT[1]])
    with pytest.raises(ValueError, match=r'only 1 of 2 images have a result. Missing ids: \[1\]'):
        metric.evaluate(2)


def test_images_that_the_file_does_not_have_are_named(ann_file):
    metric = CocoMetric(ann_file=ann_file)
    metric.dataset_meta = {'classes': CLASSES}
    metric.process({}, [*PERFECT, sample(9, [], [], [])])
    with pytest.raises(ValueError, match=r'images with the ids \[9\] are not in .*truth.json'):
        metric.evaluate(3)
