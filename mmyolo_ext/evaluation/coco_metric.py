"""COCO's average precision, by the fastest evaluator installed."""

import json
import logging
import math
import tempfile
from collections import defaultdict
from collections.abc import Collection, Sequence
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

from mmyolo_ext.coco_json import FAULTS, check_boxes, check_entries, read_coco
from mmyolo_ext.registry import METRICS

Base = FasterCocoMetric if find_spec('faster_coco_eval') else PycocotoolsMetric
SHOWN = 3  # annotations of each reason, in the log
SHOWN_IDS = 10  # in an error


class GroundTruth(COCO):
    """COCO's index of annotations in memory, which accepts empty detections.

    Args:
        content: Of a COCO file: the lists ``images``, ``categories`` and ``annotations``.
    """

    def __init__(self, content: dict) -> None:
        super().__init__()
        self.dataset = content
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def loadRes(self, detections: list[dict]) -> COCO:  # noqa: N802
        """Index detections; the base class fails without any."""
        return super().loadRes(detections) if detections else GroundTruth({**self.dataset, 'annotations': []})


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
        sort_categories: Order the categories by id.
        **kwargs: As mmdet's ``CocoMetric``, with ``metric='bbox'`` only.

    Raises:
        ValueError: For other metrics, or an annotation file that is missing or broken.
    """

    def __init__(
        self, ann_file: str | None = None, classwise: bool = True, sort_categories: bool = False, **kwargs
    ) -> None:
        if kwargs.setdefault('metric', 'bbox') not in ('bbox', ['bbox']):
            raise ValueError(f"metric must be 'bbox', got {kwargs['metric']!r}: use mmdet.CocoMetric for others")
        super().__init__(classwise=classwise, **kwargs)
        self.ann_file = ann_file
        self._not_evaluated: dict[str, list[int]] = {}
        if ann_file is not None:
            content, self._not_evaluated = clean(read_coco(ann_file, self.backend_args), ann_file)
            if sort_categories:
                content['categories'] = sorted(content['categories'], key=lambda category: category['id'])
            self._coco_api = GroundTruth(content)

    def evaluate(self, size: int) -> dict[str, float]:
        """Evaluate the results of all processes.

        Args:
            size: Number of images of the dataset.

        Raises:
            ValueError: On every rank, if an image has no result, or is not in the annotation file.
        """
        known = None if self._coco_api is None else self._coco_api.imgs
        results = gather_by_image(self.results, size, known, self.ann_file)
        self.results.clear()
        metrics, failure = {}, None
        if is_main_process():
            try:
                metrics = {f'{self.prefix}/{name}': score for name, score in self.compute_metrics(results).items()}
            except Exception as error:  # the other ranks wait for the metrics
                failure = error
        answer = [(metrics, failure and f'{type(failure).__name__}: {failure}')]
        broadcast_object_list(answer)
        if failure is not None:
            raise failure
        metrics, failure = answer[0]
        if failure:
            raise RuntimeError(f'the evaluation failed on rank 0: {failure}')
        return metrics

    def compute_metrics(self, results: list) -> dict[str, float]:
        """Compute the scores from pairs (ground truth, predictions) of each image."""
        if self._coco_api is None:
            self._coco_api = self._of_samples([ground_truth for ground_truth, _ in results])
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
            self._report_difference()
        if not self.format_only and not any(len(prediction['scores']) for _, prediction in results):
            MMLogger.get_current_instance().warning('No boxes were predicted: every average precision is 0.')
        return {name: float(score) for name, score in super().compute_metrics(results).items()}

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict[str, str]:
        """Write the detections as mmdet does, but in one call, which saves half of the time of an evaluation.

        Returns:
            The path of ``OUTFILE_PREFIX.bbox.json`` by the names that mmdet uses.
        """
        if 'masks' in results[0]:
            return super().results2json(results, outfile_prefix)
        detections = []
        for result in results:
            boxes = np.asarray(result['bboxes'], dtype=np.float64).reshape(-1, 4)
            boxes[:, 2:] -= boxes[:, :2]
            numbers = boxes.tolist(), np.asarray(result['scores']).tolist(), np.asarray(result['labels']).tolist()
            detections += [
                {'image_id': result['img_id'], 'bbox': box, 'score': score, 'category_id': self.cat_ids[label]}
                for box, score, label in zip(*numbers, strict=True)
            ]
        path = f'{outfile_prefix}.bbox.json'
        put_text(json.dumps(detections), path)
        return {'bbox': path, 'proposal': path}

    def _of_samples(self, ground_truths: Sequence[dict]) -> GroundTruth:
        with tempfile.TemporaryDirectory() as folder:
            path = self.gt_to_coco_json(ground_truths, str(Path(folder) / 'samples'))
            return GroundTruth({'annotations': [], **json.loads(Path(path).read_text())})

    def _report_difference(self) -> None:
        """Log how many annotations of the file are not evaluated, and why."""
        of_others = len(self._coco_api.anns) - len(self._coco_api.get_ann_ids(cat_ids=self.cat_ids))
        reasons = [
            f'{len(ids)} {reason} (annotation {", ".join(map(str, ids[:SHOWN]))}{", ..." if len(ids) > SHOWN else ""})'
            for reason, ids in self._not_evaluated.items()
        ]
        level = logging.WARNING if reasons else logging.INFO
        if of_others:
            reasons.append(f'{of_others} of another class')
        if reasons:
            faulty = sum(map(len, self._not_evaluated.values()))
            share = f'{faulty + of_others} of {len(self._coco_api.anns) + faulty}'
            text = f'{self.ann_file}: {share} annotations are not evaluated: {"; ".join(reasons)}'
            print_log(text, logger='current', level=level)


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
    sizes_wh = {image['id']: (image['width'], image['height']) for image in content['images']}
    category_ids = {category['id'] for category in content['categories']}
    left_out, used = defaultdict(list), []
    for annotation in content['annotations']:
        if annotation['image_id'] not in sizes_wh:
            left_out['of an unknown image'].append(annotation['id'])
        elif annotation['category_id'] not in category_ids:
            left_out['of an unknown category'].append(annotation['id'])
        else:
            used.append(annotation)
    used_wh = np.array([sizes_wh[annotation['image_id']] for annotation in used], np.float64).reshape(-1, 2)
    boxes_xyxy, faults, clipped, file_xywh = check_boxes([annotation['bbox'] for annotation in used], used_wh)
    annotations = []
    for annotation, box, fault, is_clipped, xywh in zip(
        used, boxes_xyxy.tolist(), faults.tolist(), clipped.tolist(), file_xywh.tolist(), strict=True
    ):
        if fault >= 0:
            left_out[FAULTS[fault]].append(annotation['id'])
            continue
        if is_clipped:
            xywh = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
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


def gather_by_image(results: Sequence[tuple], size: int, known: Collection | None, source: str | None) -> list[tuple]:
    """Return the results of all ranks on every rank, one of each image.

    Samplers repeat images to give all ranks the same number: the first result counts.

    Args:
        results: Pairs (ground truth, predictions) of this rank; both are dicts with ``img_id``.
        size: Number of images of the dataset.
        known: Image ids of the annotation file, if any.
        source: Its path.

    Raises:
        ValueError: On every rank, if there are fewer images than ``size``, or an unknown one.
    """
    by_image = {}
    for result in chain.from_iterable(zip_longest(*all_gather_object(list(results)))):
        if result is not None:
            by_image.setdefault(result[1]['img_id'], result)
    unknown = [] if known is None else [img_id for img_id in by_image if img_id not in known]
    if unknown:
        raise ValueError(
            f'{len(unknown)} evaluated images are not in {source}, among them the ids {unknown[:SHOWN_IDS]}: evaluate '
            'against the annotation file of the dataset'
        )
    if len(by_image) < size:
        raise ValueError(f'only {len(by_image)} of {size} images have a result. {_missing(by_image, known)}')
    return list(by_image.values())


def _missing(by_image: Collection, known: Collection | None) -> str:
    missing = [] if known is None else [img_id for img_id in known if img_id not in by_image]
    if not missing:
        return 'Does the dataset repeat an image id, or did a process end early?'
    more = ', ...' if len(missing) > SHOWN_IDS else ''
    ids = ', '.join(map(str, missing[:SHOWN_IDS]))
    return f'Missing ids: {ids}{more}. The sampler must give each image to a process'
