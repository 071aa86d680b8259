"""COCO's average precision, by the fastest evaluator installed."""

import contextlib
import io
import json
import logging
import math
from collections import defaultdict
from collections.abc import Sequence
from importlib.util import find_spec
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from mmdet.datasets.api_wrappers import COCO
from mmdet.evaluation import CocoMetric as PycocotoolsMetric
from mmdet.evaluation import FasterCocoMetric
from mmengine.dist import all_gather_object, broadcast_object_list, is_main_process
from mmengine.fileio import put_text
from mmengine.logging import MMLogger, print_log

from mmyolo_ext.coco_json import check_boxes, check_entries, list_faults, read_coco
from mmyolo_ext.registry import DATASETS, METRICS

Base = FasterCocoMetric if find_spec('faster_coco_eval') else PycocotoolsMetric
SHOWN_IDS = 10  # in an error


@METRICS.register_module()
class CocoMetric(Base):
    """mmdet's COCO metric on boxes, by faster-coco-eval if it is installed, else by pycocotools, with equal results.

    Differences from mmdet:

    * The ground truth is that of ``CheckedCocoDataset`` (see :func:`clean`): a faulty box does not count as missed. A
      log line reports how many annotations of the file are not evaluated, and why.
    * The AP of each class is reported unless ``classwise=False``; it is NaN for a class without ground truth, which
      the means leave out.
    * A detector without predictions gets a score of 0; mmdet returns no score.
    * Processes exchange results by communication, not in files, and each image counts once.

    Args:
        ann_file: COCO JSON of the split. Without it, the ground truth of the data samples is used.
        classwise: Report each class, as ``coco/NAME_precision`` and in a table.
        dataset: Config of the dataset of the split, in place of ``ann_file``, for the formats that are no COCO JSON.
        **kwargs: As mmdet's ``CocoMetric``, with ``metric='bbox'`` only.

    Attributes:
        predictions: Of the last evaluation, on rank 0: ``img_id``, ``bboxes`` (N, 4) xyxy, ``scores`` and ``labels``
            of each image.

    Raises:
        ValueError: For other metrics, or an annotation file that is missing or broken.
    """

    def __init__(
        self, ann_file: str | None = None, classwise: bool = True, dataset: dict | None = None, **kwargs
    ) -> None:
        if kwargs.setdefault('metric', 'bbox') not in ('bbox', ['bbox']):
            raise ValueError(f"metric must be 'bbox', got {kwargs['metric']!r}: use mmdet.CocoMetric for others")
        super().__init__(classwise=classwise, **kwargs)
        self.ann_file = ann_file
        self.predictions: list[dict] = []
        content = None if ann_file is None else read_coco(ann_file, self.backend_args)
        if dataset is not None:
            reader = DATASETS.build({**dataset, 'pipeline': [], 'lazy_init': True, 'test_mode': True})
            content, self.ann_file = reader.read_content(), reader.source
        if content is not None:
            content, self._faults = clean(content, self.ann_file)
            self._coco_api = COCO()
            self._coco_api.dataset = content
            with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
                self._coco_api.createIndex()

    def evaluate(self, size: int) -> dict[str, float]:
        """Evaluate the results of all processes.

        Args:
            size: Number of images of the dataset.

        Raises:
            ValueError: On every rank, if an image has no result, or is not in the annotation file.
        """
        by_image = {}  # samplers repeat images to give all ranks the same number: the first result counts
        for result in chain.from_iterable(zip_longest(*all_gather_object(self.results))):
            if result is not None:
                by_image.setdefault(result[1]['img_id'], result)
        self.results.clear()
        known = by_image if self._coco_api is None else self._coco_api.imgs
        unknown, missing = (list(ids)[:SHOWN_IDS] for ids in (by_image.keys() - known, known - by_image.keys()))
        if unknown:
            raise ValueError(f'the evaluated images with the ids {unknown} are not in {self.ann_file}')
        if len(by_image) < size:
            raise ValueError(f'only {len(by_image)} of {size} images have a result. Missing ids: {missing}')
        answer = [None]
        if is_main_process():
            try:
                scores = self.compute_metrics(list(by_image.values()))
                answer = [{f'{self.prefix}/{name}': score for name, score in scores.items()}]
            except Exception as error:  # the other ranks wait for the answer
                answer = [error]
        broadcast_object_list(answer)
        if isinstance(answer[0], Exception):
            raise answer[0]
        return answer[0]

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the scores from pairs (ground truth, predictions) of each image."""
        if self.ann_file is not None and self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
            self._report_difference()
        self.predictions = [dict(prediction) for _, prediction in results]
        if not self.format_only and not any(len(prediction['scores']) for _, prediction in results):
            MMLogger.get_current_instance().warning('No boxes were predicted: every average precision is 0.')
            nothing = {'bboxes': np.zeros((1, 4)), 'scores': np.zeros(1), 'labels': np.zeros(1, int)}
            results[0][1].update(nothing)  # without any detection, mmdet returns no scores
        with contextlib.redirect_stdout(io.StringIO()):
            scores = super().compute_metrics(results)
        return {name: float(score) for name, score in scores.items()}

    def _report_difference(self) -> None:
        """Log how many annotations of the file are not evaluated, and why."""
        of_others = len(self._coco_api.anns) - len(self._coco_api.get_ann_ids(cat_ids=self.cat_ids))
        faulty = sum(map(len, self._faults.values()))
        if of_others or faulty:
            reasons = [list_faults(self._faults)] if faulty else []
            reasons += [f'{of_others} of another class'] if of_others else []
            share = f'{faulty + of_others} of {len(self._coco_api.anns) + faulty}'
            text = f'{self.ann_file}: {share} annotations are not evaluated: {"; ".join(reasons)}'
            print_log(text, logger='current', level=logging.WARNING if faulty else logging.INFO)

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict[str, str]:
        """Write the detections as mmdet does, but in one call, which saves half of the time of an evaluation.

        Returns:
            The path of ``OUTFILE_PREFIX.bbox.json`` by the names that mmdet uses.
        """
        path = f'{outfile_prefix}.bbox.json'
        put_text(json.dumps(self.detections(results)), path)
        return {'bbox': path, 'proposal': path}

    def detections(self, predictions: Sequence[dict]) -> list[dict]:
        """Return predictions in COCO's format of results: ``image_id, bbox`` (x, y, width, height), ``score, ...``."""
        detections = []
        for result in predictions:
            boxes = np.array(result['bboxes'], dtype=np.float64).reshape(-1, 4)  # a copy
            boxes[:, 2:] -= boxes[:, :2]
            numbers = boxes.tolist(), np.asarray(result['scores']).tolist(), np.asarray(result['labels']).tolist()
            detections += [
                {'image_id': result['img_id'], 'bbox': box, 'score': score, 'category_id': self.cat_ids[label]}
                for box, score, label in zip(*numbers, strict=True)
            ]
        return detections

    def write_report(self, folder: str, predictions: Sequence[dict], **parts) -> Path:
        """Write the report of predictions, see :func:`mmyolo_ext.evaluation.report.write_report`."""
        # matplotlib and images, which a training needs at its end only
        from mmyolo_ext.evaluation.report import write_report

        ground_truth = self._coco_api.dataset
        return write_report(
            folder,
            ground_truth={**ground_truth, 'info': {}},
            detections=self.detections(predictions),
            class_names=self.dataset_meta['classes'],
            **parts,
        )


def clean(content: dict, path: str) -> tuple[dict, dict[str, list[int]]]:
    """Keep the annotations that ``CheckedCocoDataset`` keeps: boxes of at least one pixel, clipped to their image.

    An annotation marked ignore becomes a crowd region, where detections are neither true nor false positives.
    Annotations are numbered from 1, since COCO's evaluation reads a match with id 0 as no match. ``area`` is kept, as
    the size classes of COCO refer to mask areas, but limited to the clipped box; if missing, it is that of the box.

    Args:
        content: As parsed; only the sizes of images are converted to int, in place.
        path: Of the file.

    Returns:
        The content to evaluate against, and the ids of other annotations by reason.

    Raises:
        ValueError: On missing fields, wrong types or repeated ids.
    """
    check_entries(content, path)
    left_out, annotations = defaultdict(list), []
    boxes_xyxy, faults, clipped, file_xywh, _ = check_boxes(content)
    clipped_xywh = np.concatenate((boxes_xyxy[:, :2], boxes_xyxy[:, 2:] - boxes_xyxy[:, :2]), axis=1)
    boxes_xywh = np.where(clipped[:, None], clipped_xywh, file_xywh)
    for annotation, xywh, fault, is_clipped in zip(
        content['annotations'], boxes_xywh.tolist(), faults, clipped, strict=True
    ):
        if fault is not None:
            left_out[fault].append(annotation['id'])
            continue
        area = annotation.get('area')
        if type(area) not in (int, float) or not math.isfinite(area):
            area = xywh[2] * xywh[3]
        annotations.append(
            {
                **annotation,
                'id': len(annotations) + 1,
                'bbox': xywh,
                'area': min(area, xywh[2] * xywh[3]) if is_clipped else area,
                'iscrowd': int(bool(annotation.get('iscrowd') or annotation.get('ignore'))),
            }
        )
    return {**content, 'annotations': annotations}, dict(left_out)
