"""Read boxes from mmdet's ``results`` as NumPy arrays and write them back.

Letters: G boxes, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from mmcv.transforms import BaseTransform
from mmdet.structures.bbox import HorizontalBoxes


class Annotations(NamedTuple):
    """Boxes, and the fields that belong to each.

    ``boxes_xyxy``: (G, 4) float32 px; ``labels``: (G,) int64; ``ignore``: (G,) bool, true for regions such as crowds
    that are neither object nor background; ``soft_labels``: (G, C) float32, class probabilities, or None.
    """

    boxes_xyxy: np.ndarray
    labels: np.ndarray
    ignore: np.ndarray
    soft_labels: np.ndarray | None = None

    def moved(self, boxes_xyxy: np.ndarray, keep: np.ndarray | slice = slice(None)) -> 'Annotations':
        """Return the annotations selected by ``keep``, with new box coordinates."""
        soft_labels = None if self.soft_labels is None else self.soft_labels[keep]
        return Annotations(boxes_xyxy[keep].astype(np.float32), self.labels[keep], self.ignore[keep], soft_labels)


def join(parts: Sequence[Annotations]) -> Annotations:
    """Concatenate annotations. If some have soft labels, hard labels of the others become one-hot rows."""
    boxes_xyxy, labels, ignore, soft_labels = zip(*parts, strict=True)
    rows = None
    num_classes = next((part.shape[1] for part in soft_labels if part is not None), None)
    if num_classes is not None:
        one_hot = np.eye(num_classes, dtype=np.float32)
        rows = np.concatenate(
            [one_hot[part.labels] if part.soft_labels is None else part.soft_labels for part in parts]
        )
    return Annotations(np.concatenate(boxes_xyxy), np.concatenate(labels), np.concatenate(ignore), rows)


def stack_soft_labels(soft_labels: Sequence[Sequence[float] | None], labels: Sequence[int]) -> np.ndarray | None:
    """Stack soft labels (G, C) float32, one-hot for boxes without any; return None if no box has a soft label."""
    num_classes = next((len(row) for row in soft_labels if row is not None), None)
    if num_classes is None:
        return None
    one_hot = np.eye(num_classes, dtype=np.float32)[labels]
    return np.array([hard if row is None else row for row, hard in zip(soft_labels, one_hot, strict=True)], np.float32)


def read_annotations(results: dict) -> Annotations:
    """Read the boxes of ``results``; return empty arrays if it has no ``gt_bboxes``.

    Missing labels read as class 0 and missing ignore flags as False.

    Raises:
        ValueError: If there are masks, boxes other than ``HorizontalBoxes``, or the number of soft labels differs from
            that of the boxes.
    """
    for key in ('gt_masks', 'gt_seg_map'):
        if results.get(key) is not None:
            raise ValueError(f'the sample has {key}: load boxes only, mmdet.LoadAnnotations(with_bbox=True)')
    boxes = results.get('gt_bboxes')
    if boxes is None:
        return Annotations(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    if not isinstance(boxes, HorizontalBoxes):
        raise ValueError(
            f'gt_bboxes must be mmdet HorizontalBoxes, got {type(boxes).__name__}: '
            "load them by mmdet.LoadAnnotations(with_bbox=True, box_type='hbox')"
        )
    soft_labels = results.get('gt_soft_labels')
    if soft_labels is not None and len(soft_labels) != len(boxes):
        raise ValueError(
            f'{len(soft_labels)} rows of gt_soft_labels for {len(boxes)} boxes: use the transforms of mmyolo_ext'
        )
    return Annotations(
        boxes.tensor.numpy(),
        results.get('gt_bboxes_labels', np.zeros(len(boxes), np.int64)),
        results.get('gt_ignore_flags', np.zeros(len(boxes), bool)),
        soft_labels,
    )


def as_boxes(boxes_xyxy: np.ndarray) -> HorizontalBoxes:
    """Wrap boxes (G, 4) float32 for mmdet without a copy, and without the constructor's checks."""
    boxes = HorizontalBoxes.__new__(HorizontalBoxes)
    boxes.tensor = torch.from_numpy(np.ascontiguousarray(boxes_xyxy))
    return boxes


def replace_image(results: dict, image: np.ndarray, annotations: Annotations) -> dict:
    """Return a copy of ``results`` with another image and its boxes.

    ``img_shape`` is updated. Boxes, labels and ignore flags are written only if ``results`` has boxes.
    """
    results = {**results, 'img': image, 'img_shape': image.shape[:2]}
    if 'gt_bboxes' in results:
        results['gt_bboxes'] = as_boxes(annotations.boxes_xyxy)
        results['gt_bboxes_labels'], results['gt_ignore_flags'] = annotations.labels, annotations.ignore
    if annotations.soft_labels is not None:
        results['gt_soft_labels'] = annotations.soft_labels
    return results


class Transform(BaseTransform):
    """Base of the transforms of images with boxes; ``repr`` shows the arguments."""

    def read(self, results: dict) -> tuple[np.ndarray, Annotations]:
        """Return the image and the boxes of ``results``."""
        return self.read_image(results), read_annotations(results)

    def read_image(self, results: dict) -> np.ndarray:
        """Return the image of ``results``.

        Raises:
            ValueError: Unless it is (H, W, 3) uint8.
        """
        image = results['img']
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            raise ValueError(
                f'{type(self).__name__} needs an image (H, W, 3) of type uint8, got {image.shape} {image.dtype}'
            )
        return image

    def __repr__(self) -> str:
        arguments = (f'{name}={value!r}' for name, value in vars(self).items() if not name.startswith('_'))
        return f'{type(self).__name__}({", ".join(arguments)})'
