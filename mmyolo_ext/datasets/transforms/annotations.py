"""The boxes of a sample, taken out of mmdet's ``results`` as arrays and put back.

Letters: G boxes, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmdet.structures.bbox import HorizontalBoxes


class Annotations(NamedTuple):
    """Boxes and what goes with each.

    ``boxes_xyxy``: (G, 4) float32 px; ``labels``: (G,) int64; ``ignore``: (G,) bool, true for regions such as crowds
    that are neither object nor background; ``soft_labels``: (G, C) float32, the share of each class, or None.
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    soft_labels: np.ndarray | None = None

    def moved(self, boxes_xyxy: np.ndarray, keep: np.ndarray | slice = slice(None)) -> 'Annotations':
        """The annotations with their boxes in other places, those of ``keep`` only."""
        soft_labels = None if self.soft_labels is None else self.soft_labels[keep]
        return Annotations(boxes_xyxy[keep].astype(np.float32), self.labels[keep], self.ignore[keep], soft_labels)


NO_ANNOTATIONS = Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))


def join(parts: Sequence[Annotations]) -> Annotations:
    """All boxes of some annotations, in order; where some have soft labels, the labels of the others are rows of 0
    and 1 among them.

    Raises:
        ValueError: If soft labels are of different numbers of classes, or a label is beyond them.
    """
    boxes_xyxy, labels, ignore, soft_labels = zip(*parts, strict=True)
    widths = {rows.shape[1] for rows in soft_labels if rows is not None}
    if len(widths) > 1:
        raise ValueError(f'pictures that are mixed have soft labels of {sorted(widths)} classes: give all the same')
    rows = np.concatenate([as_shares(part, *widths) for part in parts]) if widths else None
    return Annotations(np.concatenate(boxes_xyxy), np.concatenate(labels), np.concatenate(ignore), rows)


def as_shares(annotations: Annotations, num_classes: int) -> np.ndarray:
    """(G, C) float32: soft labels as they are, plain ones as rows of 0 and 1."""
    if annotations.soft_labels is not None:
        return annotations.soft_labels
    if len(annotations.labels) and not annotations.labels.max() < num_classes:
        raise ValueError(f'soft labels of {num_classes} classes beside a box of label {annotations.labels.max()}')
    return np.eye(num_classes, dtype=np.float32)[annotations.labels]


def read_annotations(results: dict) -> Annotations:
    """The boxes of ``results``; none when it has no ``gt_bboxes``, as with pictures alone.

    Missing labels read as class 0 and missing ignore flags as False; :func:`write_annotations` adds no key for them.

    Raises:
        ValueError: If there are masks, which these transforms would leave behind, boxes that are not upright, or
            not as many soft labels as boxes.
    """
    for key in ('gt_masks', 'gt_seg_map'):
        if results.get(key) is not None:
            raise ValueError(
                f'the sample holds {key}, which mosaic, mixup, affine and letterbox do not move: '
                'load boxes only, LoadAnnotations(with_bbox=True)'
            )
    boxes = results.get('gt_bboxes')
    if boxes is None:
        return NO_ANNOTATIONS
    if not isinstance(boxes, HorizontalBoxes):
        raise ValueError(
            f'gt_bboxes must be mmdet HorizontalBoxes, got {type(boxes).__name__}: '
            "load them by mmdet.LoadAnnotations(with_bbox=True, box_type='hbox')"
        )
    labels, ignore = results.get('gt_bboxes_labels'), results.get('gt_ignore_flags')
    soft_labels = results.get('gt_soft_labels')
    if soft_labels is not None and len(soft_labels) != len(boxes):
        raise ValueError(
            f'{len(soft_labels)} rows of gt_soft_labels for {len(boxes)} boxes: an earlier transform dropped boxes '
            'and does not know soft labels; take those of mmyolo_ext'
        )
    return Annotations(
        boxes.tensor.numpy(),
        np.zeros(len(boxes), np.int64) if labels is None else labels,
        np.zeros(len(boxes), bool) if ignore is None else ignore,
        soft_labels,
    )


def as_boxes(boxes_xyxy: np.ndarray) -> HorizontalBoxes:
    """Boxes (G, 4) float32 as mmdet holds them, memory shared.

    Past the constructor, whose checks would be a twentieth of the time of a small sample.
    """
    boxes = HorizontalBoxes.__new__(HorizontalBoxes)
    boxes.tensor = torch.from_numpy(np.ascontiguousarray(boxes_xyxy))
    return boxes


def write_annotations(results: dict, annotations: Annotations) -> None:
    """Put boxes, labels and ignore flags into ``results``, in place, under those of their keys that it holds, and soft
    labels if there are any."""
    if 'gt_bboxes' in results:
        results['gt_bboxes'] = as_boxes(annotations.boxes_xyxy)
    if 'gt_bboxes_labels' in results:
        results['gt_bboxes_labels'] = annotations.labels
    if 'gt_ignore_flags' in results:
        results['gt_ignore_flags'] = annotations.ignore
    if annotations.soft_labels is not None:
        results['gt_soft_labels'] = annotations.soft_labels


def replace_image(results: dict, image: np.ndarray, annotations: Annotations) -> dict:
    """A copy of ``results`` around another picture and its boxes; ``img_shape`` follows."""
    results = {**results, 'img': image, 'img_shape': image.shape[:2]}
    write_annotations(results, annotations)
    return results


def check_image(results: dict, transform: str) -> np.ndarray:
    """The picture of ``results``.

    Raises:
        ValueError: Unless it is (H, W, 3) uint8.
    """
    image = results['img']
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(
            f'{transform} takes pictures of shape (height, width, 3) and type uint8, got {image.shape} '
            f"{image.dtype}: load them by mmyolo_ext.LoadImage(color_type='color', to_float32=False)"
        )
    return image
