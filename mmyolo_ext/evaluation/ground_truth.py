"""The ground truth of COCO's evaluation, from an annotation file that may have faults."""

import math
from collections import defaultdict

import numpy as np
from mmdet.datasets.api_wrappers import COCO

from mmyolo_ext.coco_json import FAULTS, check_boxes, check_entries


class GroundTruth(COCO):
    """The index of COCO's tools over annotations in memory; no detection at all is a result as well.

    Args:
        content: Of a COCO file: the lists ``images``, ``categories`` and ``annotations``.
    """

    def __init__(self, content: dict) -> None:
        super().__init__()
        self.dataset = content
        self.createIndex()
        self.img_ann_map, self.cat_img_map = self.imgToAnns, self.catToImgs

    def loadRes(self, detections: list[dict]) -> COCO:  # noqa: N802 (the name that the evaluators call)
        """Index detections; COCO's tools fail without any."""
        return super().loadRes(detections) if detections else GroundTruth({**self.dataset, 'annotations': []})


def clean(content: dict, path: str) -> tuple[dict, dict[str, list[int]]]:
    """Take the annotations that a data set takes: with a box of at least one pixel, cut to its image.

    An annotation that is marked ignore becomes a crowd region: a detection there counts neither as right nor as
    wrong. Annotations are numbered from 1, for COCO's evaluation takes a match with the id 0 for no match. ``area`` is
    kept, for the size classes of COCO are of mask areas, but no larger than the cut box; without one it is the box's.

    Args:
        content: As parsed; not changed, but for the sides of images.
        path: The file.

    Returns:
        The content to evaluate against, and the ids of the annotations that are left out, by reason.

    Raises:
        ValueError: On entries that lack fields, or of wrong types, or repeated ids.
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
    boxes_xyxy, faults, clipped, came_xywh = check_boxes([annotation['bbox'] for annotation in used], used_wh)
    annotations = []
    for annotation, box, fault, is_clipped, xywh in zip(
        used, boxes_xyxy.tolist(), faults.tolist(), clipped.tolist(), came_xywh.tolist(), strict=True
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
