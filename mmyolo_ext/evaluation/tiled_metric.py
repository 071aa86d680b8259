"""COCO's average precision on whole images, from detections on their tiles."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from mmengine.dist import all_gather_object, is_main_process

from mmyolo_ext.evaluation.coco_metric import CocoMetric
from mmyolo_ext.registry import METRICS
from mmyolo_ext.tiling import check_merge, merge

FIELDS = ('bboxes', 'scores', 'labels')


@METRICS.register_module()
class TiledCocoMetric(CocoMetric):
    """:class:`CocoMetric` for ``TiledDataset``: merge the detections on the tiles of an image, then evaluate images.

    Args:
        merge_iou: Of two merged boxes of a class that overlap by more, the worse is dropped.
        merge_by: ``'nms'``, or ``'wbf'`` for weighted box fusion, see :func:`mmyolo_ext.tiling.merge`.
        **kwargs: As :class:`CocoMetric`; ``ann_file`` or ``dataset``, of the whole images, is required.

    Raises:
        ValueError: Without ground truth of whole images, on another ``merge_by``, or for samples that are no tiles.
    """

    def __init__(self, merge_iou: float = 0.65, merge_by: str = 'nms', **kwargs) -> None:
        super().__init__(**kwargs)
        if self.ann_file is None:
            raise ValueError('TiledCocoMetric needs the ann_file or dataset of the whole images')
        check_merge(merge_by)
        self.merge_iou, self.merge_by = merge_iou, merge_by

    def process(self, data_batch: dict, data_samples: Sequence[dict]) -> None:
        """Keep the detections on each tile."""
        start = len(self.results)
        super().process(data_batch, data_samples)
        for (_, found), sample in zip(self.results[start:], data_samples, strict=True):
            if 'tile_xywh' not in sample:
                raise ValueError('TiledCocoMetric got a sample without tile_xywh: use TiledDataset and PackInputs')
            found.update(tile_xywh=tuple(sample['tile_xywh']), image_hw=tuple(sample['image_hw']))

    def evaluate(self, size: int) -> dict[str, float]:
        """Merge the tiles of all processes and evaluate; ``size`` is the number of tiles."""
        by_image: dict = defaultdict(dict)  # samplers repeat tiles to give all ranks the same number
        for truth, found in (result for part in all_gather_object(self.results) for result in part):
            by_image[found['img_id']].setdefault(found['tile_xywh'], (truth, found))
        count = sum(map(len, by_image.values()))
        if count < size:
            raise ValueError(f'only {count} of {size} tiles have a result')
        images = list(by_image.values()) if is_main_process() else []
        self.results = [self._merged(list(tiles.values())) for tiles in images]
        return super().evaluate(len(by_image))

    def _merged(self, tiles: list[tuple[dict, dict]]) -> tuple[dict, dict]:
        """Return truth and detections of an image from those of its tiles."""
        truth, first = tiles[0]
        found = [tuple(np.asarray(torch.as_tensor(one[name]).cpu()) for name in FIELDS) for _, one in tiles]
        height, width = first['image_hw']
        arrays = merge(found, [one['tile_xywh'] for _, one in tiles], (height, width), self.merge_iou, self.merge_by)
        whole = {'img_id': first['img_id'], **dict(zip(FIELDS, arrays, strict=True))}
        return {**truth, 'width': width, 'height': height}, whole
