"""COCO's average precision, by the fastest evaluator that is installed."""

import json
import logging
import tempfile
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from mmdet.evaluation import CocoMetric as PycocotoolsMetric
from mmdet.evaluation import FasterCocoMetric
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.fileio import put_text
from mmengine.logging import MMLogger, print_log

from mmyolo_ext.coco_json import read_coco
from mmyolo_ext.registry import METRICS

from .gathering import gather_by_image
from .ground_truth import GroundTruth, clean

Base = FasterCocoMetric if find_spec('faster_coco_eval') else PycocotoolsMetric
NAMED = 3  # annotations of each reason, in the log


@METRICS.register_module()
class CocoMetric(Base):
    """mmdet's COCO metric on boxes: by faster-coco-eval where it is installed, else by pycocotools; same numbers.

    Differs from mmdet's on purpose:

    * It evaluates against what ``CheckedCocoDataset`` makes of the file (see :func:`.ground_truth.clean`): a faulty
      box is not counted as missed. A log line says how many annotations of the file are not evaluated, and why.
    * The AP of each class is reported unless ``classwise=False``; it is NaN for a class without ground truth, which
      the means leave out.
    * A detector that predicts nothing scores 0, where mmdet gives no score at all, and so neither a best checkpoint
      nor a curve.
    * The results of several processes travel through their connection, not through files, and each image counts once.

    Args:
        ann_file: COCO JSON of the split. Without it, the ground truth of the data samples is evaluated.
        classwise: Report each class, as ``coco/NAME_precision`` and in a table.
        sort_categories: Take the categories in the order of their ids.
        **kwargs: As mmdet's ``CocoMetric``, with ``metric='bbox'`` alone.

    Raises:
        ValueError: For other kinds of metric, or an annotation file that is missing or broken.
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
            size: Number of images of the data set.

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
        """Compute the scores from a pair (ground truth, predictions) of each image."""
        if self._coco_api is None:
            self._coco_api = self._of_samples([ground_truth for ground_truth, _ in results])
        if self.cat_ids is None:
            self.cat_ids = self._coco_api.get_cat_ids(cat_names=self.dataset_meta['classes'])
            self._report_difference()
        if not self.format_only and not any(len(prediction['scores']) for _, prediction in results):
            MMLogger.get_current_instance().warning('Not a single box was predicted: every average precision is 0.')
        return {name: float(score) for name, score in super().compute_metrics(results).items()}

    def results2json(self, results: Sequence[dict], outfile_prefix: str) -> dict[str, str]:
        """Write the detections as mmdet does, in one go: its encoder takes half of the time of an evaluation.

        Returns:
            The file, ``OUTFILE_PREFIX.bbox.json``, under the names that mmdet gives it.
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
            f'{len(ids)} {reason} (annotation {", ".join(map(str, ids[:NAMED]))}{", ..." if len(ids) > NAMED else ""})'
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
