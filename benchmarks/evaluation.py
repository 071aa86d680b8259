"""Time COCO's evaluation: our metric beside mmdet's on pycocotools, 5,000 images with 100 boxes each.

Measures the whole metric, from predictions to figures, and on request the evaluator alone. Both read the ground truth
from its file in each run. About 7 objects an image and 80 classes, as in COCO's validation; half of the boxes lie on
objects, more or less well. Ours and pycocotools alternate, so that other load slows both::

    python benchmarks/evaluation.py [--images 5000] [--boxes 100] [--repeats 5] [--parts metric evaluator]

Prints one JSON line. Exits with 1 if a figure differs, or if ours is not three times as fast as pycocotools.
"""

import argparse
import contextlib
import io
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from machine import LEAST_REPEATS, report, summary

with contextlib.redirect_stdout(sys.stderr):  # mmdet prints what it does not find
    import mmyolo_ext  # isort: skip  # noqa: F401
    import faster_coco_eval
    from mmdet.evaluation import CocoMetric as PycocotoolsMetric
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from mmyolo_ext.evaluation import CocoMetric

CLASSES, OBJECTS, SIDE, BOUND = 80, 7.3, 640, 3.0
NAMES = tuple(f'class {index}' for index in range(CLASSES))
Sample = dict[str, Any]


def draw(images: int, boxes: int) -> tuple[dict, list[Sample]]:
    """Ground truth in COCO's form, and predictions in mmdet's."""
    rng = np.random.RandomState(0)
    annotations, samples = [], []
    for image in range(images):
        count = rng.poisson(OBJECTS)
        # small ones and large ones, as in COCO, all inside the image
        size = np.exp(rng.uniform(np.log(8), np.log(400), (count, 2)))
        start, label = rng.rand(count, 2) * (SIDE - size), rng.randint(0, CLASSES, count)
        annotations += [
            {
                'id': len(annotations) + index + 1,
                'image_id': image,
                'category_id': int(label[index]),
                'bbox': [*start[index].tolist(), *size[index].tolist()],
                'area': float(size[index].prod()),
                'iscrowd': int(rng.rand() < 0.01),
            }
            for index in range(count)
        ]
        samples.append(
            {'img_id': image, 'ori_shape': (SIDE, SIDE), 'pred_instances': _guess(rng, start, size, label, boxes)}
        )
    truth = {
        'images': [{'id': image, 'width': SIDE, 'height': SIDE} for image in range(images)],
        'annotations': annotations,
        'categories': [{'id': index, 'name': name} for index, name in enumerate(NAMES)],
    }
    return truth, samples


def _guess(rng: np.random.RandomState, start: np.ndarray, size: np.ndarray, label: np.ndarray, boxes: int) -> dict:
    """Half on objects, off by up to a quarter of their size, most with their class; half anywhere."""
    on_objects = boxes // 2 if len(label) else 0
    which = rng.randint(0, max(len(label), 1), on_objects)
    guess_size = np.exp(rng.uniform(np.log(8), np.log(400), (boxes, 2)))
    guess_start, guess_label = rng.rand(boxes, 2) * SIDE, rng.randint(0, CLASSES, boxes)
    guess_size[:on_objects] = size[which] * rng.uniform(0.75, 1.25, (on_objects, 2))
    guess_start[:on_objects] = start[which] + size[which] * rng.uniform(-0.25, 0.25, (on_objects, 2))
    keep_class = rng.rand(on_objects) < 0.8
    guess_label[:on_objects][keep_class] = label[which][keep_class]
    return {
        'bboxes': torch.from_numpy(np.hstack([guess_start, guess_start + guess_size]).astype(np.float32)),
        'scores': torch.from_numpy(rng.rand(boxes).astype(np.float32)),
        'labels': torch.from_numpy(guess_label),
    }


def by_metric(kind: type, truth_file: str, samples: list[Sample]) -> dict[str, float]:
    """From predictions to figures, as a validation does it."""
    metric = kind(ann_file=truth_file, classwise=True)
    metric.dataset_meta = {'classes': NAMES}
    metric.process({}, samples)
    return metric.evaluate(len(samples))


def by_evaluator(read: type, evaluator: type, truth_file: str, table: np.ndarray) -> list[float]:
    """The twelve figures of COCO, from arrays of predictions."""
    truth = read(truth_file)
    evaluation = evaluator(truth, truth.loadRes(table), 'bbox')
    evaluation.evaluate()
    evaluation.accumulate()
    evaluation.summarize()
    return [round(float(value), 6) for value in evaluation.stats[:12]]


def as_table(samples: list[Sample]) -> np.ndarray:
    """Rows (image, x, y, w, h, score, class)."""
    rows = []
    for sample in samples:
        found = sample['pred_instances']
        xyxy = found['bboxes'].numpy().astype(np.float64)
        image = np.full((len(xyxy), 1), sample['img_id'])
        tail = [found['scores'].numpy()[:, None], found['labels'].numpy()[:, None]]
        rows.append(np.hstack([image, xyxy[:, :2], xyxy[:, 2:] - xyxy[:, :2], *tail]))
    return np.concatenate(rows)


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """Evaluators and metrics print tables."""
    logging.disable(logging.WARNING)
    with contextlib.redirect_stdout(io.StringIO()):
        yield
    logging.disable(logging.NOTSET)


def compare(ours: Callable[[], Any], theirs: Callable[[], Any], repeats: int) -> dict:
    """Times of both in turn, how many times faster ours is, and whether all figures of all runs are equal."""
    results, times = [], {'ours': [], 'pycocotools': []}
    for _ in range(repeats):
        for who, call in (('ours', ours), ('pycocotools', theirs)):
            with silence():
                start = time.perf_counter()
                results.append(call())
                times[who].append((time.perf_counter() - start) * 1e3)
    ratios = sorted(theirs_ms / ours_ms for ours_ms, theirs_ms in zip(*times.values(), strict=True))
    return {
        **{who: summary(values) for who, values in times.items()},
        'times_faster': round(statistics.median(ratios), 2),
        'times_faster_min_max': [round(ratios[0], 2), round(ratios[-1], 2)],
        # by their digits, for a class without objects has a figure that is no number
        'equal': len({repr(result) for result in results}) == 1,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--images', type=int, default=5000)
    parser.add_argument('--boxes', type=int, default=100, help='predicted on each image')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--parts', nargs='+', choices=('metric', 'evaluator'), default=['metric'])
    options = parser.parse_args()
    if options.repeats < LEAST_REPEATS:
        parser.error(f'--repeats must be {LEAST_REPEATS} or more')
    truth, samples = draw(options.images, options.boxes)
    table = as_table(samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / 'truth.json'
        path.write_text(json.dumps(truth), encoding='utf-8')
        metrics = (lambda kind=kind: by_metric(kind, str(path), samples) for kind in (CocoMetric, PycocotoolsMetric))
        evaluators = (
            lambda pair=pair: by_evaluator(*pair, str(path), table)
            for pair in ((faster_coco_eval.COCO, faster_coco_eval.COCOeval_faster), (COCO, COCOeval))
        )
        parts = {'metric': metrics, 'evaluator': evaluators}
        figures = {name: compare(*parts[name], options.repeats) for name in options.parts}
    report(
        'evaluation',
        {'images': options.images, 'boxes': options.boxes, 'objects': len(truth['annotations']), **figures},
    )
    return 0 if all(line['equal'] and line['times_faster'] >= BOUND for line in figures.values()) else 1


if __name__ == '__main__':
    sys.exit(main())
