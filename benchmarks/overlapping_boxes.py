"""Count objects that a detector marks twice, for several IoU thresholds of NMS, beside the AP.

An object is doubled if two boxes of one class, each with a score of at least ``--score-thr``, have an IoU above
``IOU_WITH_OBJECT`` with it::

    python benchmarks/overlapping_boxes.py best.pth data/digits/annotations/test.json data/digits/test
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from mmyolo_ext import Detector
from mmyolo_ext.evaluation.report.numbers import coco_ap
from mmyolo_ext.export.runtime import overlaps

IOU_WITH_OBJECT = 0.5
THRESHOLDS = (0.65, 0.45, 0.4, 0.35, 0.3)


def count_doubled(gt: dict, detections: list[dict], score_thr: float) -> int:
    """Return the number of annotations of a COCO dataset that are doubled in COCO results."""
    found = defaultdict(list)
    for one in detections:
        if one['score'] >= score_thr:
            found[one['image_id'], one['category_id']].append(one['bbox'])
    boxes_of = defaultdict(list)
    for (image_id, _), boxes_xywh in found.items():
        boxes_of[image_id].append(to_xyxy(boxes_xywh))
    return sum(
        any((overlaps(to_xyxy(one['bbox']), boxes) > IOU_WITH_OBJECT).sum() > 1 for boxes in boxes_of[one['image_id']])
        for one in gt['annotations']
    )


def to_xyxy(boxes_xywh: list) -> np.ndarray:
    """Convert boxes (..., 4) from x, y, width, height."""
    boxes = np.asarray(boxes_xywh, np.float64)
    return np.concatenate([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], axis=-1)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description='Count objects with two boxes of one class')
    parser.add_argument('model', help='checkpoint (.pth) with its config, or an export')
    parser.add_argument('annotations', type=Path, help='COCO JSON')
    parser.add_argument('images', type=Path, help='folder of its images')
    parser.add_argument('--score-thr', type=float, default=0.25)
    parser.add_argument('--nms-iou', type=float, nargs='+', default=THRESHOLDS)
    args = parser.parse_args()
    gt = json.loads(args.annotations.read_text())
    category_ids = [category['id'] for category in gt['categories']]
    for nms_iou in args.nms_iou:
        detector = Detector(args.model, nms_iou=nms_iou)
        files = [args.images / image['file_name'] for image in gt['images']]
        detections = [
            entry
            for image, found in zip(gt['images'], detector(files, args.score_thr), strict=True)
            for entry in found.to_coco(image['id'], category_ids)
        ]
        ap, _ = coco_ap(gt, detections)
        doubled = count_doubled(gt, detections, args.score_thr)
        print(
            f'NMS {nms_iou}: {doubled} of {len(gt["annotations"])} objects doubled, {len(detections)} boxes, '
            f'AP {ap["ap"]:.4f}, AP50 {ap["ap50"]:.4f}'
        )


if __name__ == '__main__':
    main()
