"""COCO's average precision, by the fastest evaluator that is installed."""

import json
from collections.abc import Sequence
from importlib.util import find_spec

import numpy as np
from mmdet.evaluation import CocoMetric as PycocotoolsMetric
from mmdet.evaluation import FasterCocoMetric
from mmengine.fileio import put_text
from mmengine.logging import MMLogger

from mmyolo_ext.registry import METRICS

Base = FasterCocoMetric if find_spec('faster_coco_eval') else PycocotoolsMetric


@METRICS.register_module()
class CocoMetric(Base):
    """mmdet's COCO metric on boxes: by faster-coco-eval where it is installed, else by pycocotools; same numbers.

    Differs from mmdet's on purpose: the AP of each class is reported unless ``classwise=False``; a detector that
    predicts nothing scores 0, where mmdet gives no score at all, and so neither a best checkpoint nor a curve; a file
    whose annotations are numbered from 0 is numbered anew, for COCO's evaluation takes a match with the id 0 for no
    match and counts that box as missed.

    Args:
        ann_file: COCO JSON of the split. Without it, the ground truth of the data samples is evaluated.
        classwise: Report each class, as ``coco/NAME_precision`` and in a table.
        **kwargs: As mmdet's ``CocoMetric``, with ``metric='bbox'`` alone.

    Raises:
        ValueError: For other kinds of metric.
    """

    def __init__(self, ann_file: str | None = None, classwise: bool = True, **kwargs) -> None:
        if kwargs.setdefault('metric', 'bbox') not in ('bbox', ['bbox']):
            raise ValueError(f"metric must be 'bbox', got {kwargs['metric']!r}: use mmdet.CocoMetric for others")
        super().__init__(ann_file=ann_file, classwise=classwise, **kwargs)
        if self._coco_api is not None and 0 in self._coco_api.anns:
            self._number_from_one()

    def compute_metrics(self, results: list) -> dict[str, float]:
        if self.format_only or any(len(prediction['scores']) for _, prediction in results):
            return super().compute_metrics(results)
        MMLogger.get_current_instance().warning('Not a single box was predicted: every average precision is 0.')
        items = self.metric_items or ('mAP', 'mAP_50', 'mAP_75', 'mAP_s', 'mAP_m', 'mAP_l')
        zeros = {f'bbox_{item}': 0.0 for item in items}
        return {**{f'{name}_precision': 0.0 for name in self._class_names()}, **zeros}

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

    def _number_from_one(self) -> None:
        annotations = self._coco_api.dataset['annotations']
        for number, annotation in enumerate(annotations, 1):
            annotation['id'] = number
        self._coco_api.createIndex()

    def _class_names(self) -> tuple[str, ...]:
        return tuple(self.dataset_meta['classes']) if self.classwise else ()
