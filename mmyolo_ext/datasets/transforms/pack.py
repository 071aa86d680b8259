"""From the results of a pipeline to what the model reads."""

from collections.abc import Sequence

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmyolo_ext.datasets.batch_memory import take_place
from mmyolo_ext.registry import TRANSFORMS

from .annotations import Annotations, as_boxes, read_annotations

META_KEYS = ('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'pad_param', 'flip', 'flip_direction')
MORE_TO_PACK = ('gt_masks', 'gt_seg_map', 'proposals')


@TRANSFORMS.register_module()
class PackInputs(PackDetInputs):
    """mmdet's ``PackDetInputs``, in a third of its time for a uint8 picture with upright boxes.

    What comes out is the same: ``inputs`` (3, H, W) uint8, and a ``DetDataSample`` of ``gt_instances`` and, for boxes
    flagged to be ignored, ``ignored_instances``; with ``soft_labels`` (boxes, classes) where the sample has them. In a
    batch of :class:`SeededDataset` the pixels are written to where :func:`stack_inputs` finds them. Anything else is
    packed by mmdet's own.

    Args:
        meta_keys: Copied to the metainfo of the sample; by default those of mmdet and ``pad_param``, by which the head
            takes boxes back to the original image.
    """

    def __init__(self, meta_keys: Sequence[str] = META_KEYS) -> None:
        super().__init__(meta_keys)

    def transform(self, results: dict) -> dict:
        image = results.get('img')
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or not {'gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'} <= results.keys()
            or not isinstance(results['gt_bboxes'], HorizontalBoxes)
            or any(key in results for key in MORE_TO_PACK)
        ):
            return self._packed_by_mmdet(results)
        annotations = read_annotations(results)
        sample = DetDataSample()
        # What set_metainfo does after a deep copy, the slowest step of all, and set_field key by key.
        metainfo = {key: results[key] for key in self.meta_keys if key in results}
        sample.__dict__.update(metainfo)
        sample._metainfo_fields.update(metainfo)
        sample.gt_instances = _instances(annotations, ~annotations.ignore)
        sample.ignored_instances = _instances(annotations, annotations.ignore)
        return {'inputs': _planes(image), 'data_samples': sample}

    def _packed_by_mmdet(self, results: dict) -> dict:
        packed = super().transform(results)
        soft_labels = read_annotations(results).soft_labels if 'gt_soft_labels' in results else None
        if soft_labels is not None:
            keep = ~results.get('gt_ignore_flags', np.zeros(len(soft_labels), bool))
            packed['data_samples'].gt_instances.soft_labels = torch.from_numpy(soft_labels[keep])
        return packed


def _planes(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W) in memory of its own or of its batch; OpenCV parts channels faster than torch."""
    planes = take_place((3, *image.shape[:2]))
    cv2.split(image, list(planes.numpy()))
    return planes


def _instances(annotations: Annotations, keep: np.ndarray) -> InstanceData:
    fields = {
        'bboxes': as_boxes(annotations.boxes_xyxy[keep]),
        'labels': torch.from_numpy(annotations.labels[keep]),
    }
    if annotations.soft_labels is not None:
        fields['soft_labels'] = torch.from_numpy(annotations.soft_labels[keep])
    instances = InstanceData()
    instances.__dict__.update(fields)
    instances._data_fields.update(fields)
    return instances
