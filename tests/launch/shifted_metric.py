"""A metric for which each rank finds the objects of its own images, beside their places."""

import numpy as np
from mmengine.registry import METRICS

from mmyolo_ext.evaluation import CocoMetric


@METRICS.register_module()
class ShiftedCocoMetric(CocoMetric):
    """Evaluate :func:`shifted` instead of what the model predicts."""

    def process(self, data_batch, data_samples) -> None:
        known = len(self.results)
        super().process(data_batch, data_samples)
        for _, found in self.results[known:]:
            boxes = shifted(self._coco_api.dataset, found['img_id'])
            found['bboxes'] = np.array([xyxy for xyxy, _, _ in boxes]).reshape(-1, 4)
            found['scores'] = np.array([score for _, score, _ in boxes])
            found['labels'] = np.array([label for _, _, label in boxes], int)


def shifted(content: dict, img_id: int) -> list[tuple[list[float], float, int]]:
    """Return box, score and label of each object of an image, moved by as many px as its id says."""
    found = []
    for entry in content['annotations']:
        if entry['image_id'] == img_id:
            x, y, w, h = entry['bbox']
            xyxy = [x + img_id, y + img_id, x + w + img_id, y + h + img_id]
            found.append((xyxy, 1 / (1 + entry['id']), entry['category_id'] - 1))
    return found
