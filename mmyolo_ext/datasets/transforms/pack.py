"""From the results of a pipeline to what the model reads."""

import cv2
import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmyolo_ext.registry import TRANSFORMS

from .annotations import Annotations, read_annotations

MORE_TO_PACK = ('gt_masks', 'gt_seg_map', 'proposals')


@TRANSFORMS.register_module()
class PackInputs(PackDetInputs):
    """mmdet's ``PackDetInputs``, in a third of its time for a uint8 picture with upright boxes.

    What comes out is the same: ``inputs`` (3, H, W) uint8, and a ``DetDataSample`` of ``gt_instances`` and, for boxes
    flagged to be ignored, ``ignored_instances``. Anything else is packed by mmdet's own.
    """

    def transform(self, results: dict) -> dict:
        image = results.get('img')
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or not image.flags.c_contiguous
            or not {'gt_bboxes', 'gt_bboxes_labels', 'gt_ignore_flags'} <= results.keys()
            or not isinstance(results['gt_bboxes'], HorizontalBoxes)
            or any(key in results for key in MORE_TO_PACK)
        ):
            return super().transform(results)
        annotations = read_annotations(results)
        sample = DetDataSample()
        for key in self.meta_keys:
            if key in results:  # what set_metainfo does after a deep copy, the slowest step of all
                sample.set_field(results[key], key, field_type='metainfo')
        sample.gt_instances = _instances(annotations, ~annotations.ignore)
        sample.ignored_instances = _instances(annotations, annotations.ignore)
        return {'inputs': _planes(image), 'data_samples': sample}


def _planes(image: np.ndarray) -> torch.Tensor:
    """(H, W, C) -> (C, H, W), new memory."""
    height, width, channels = image.shape
    planes = np.empty((channels, height, width), image.dtype)
    for channel in range(channels):
        cv2.extractChannel(image, channel, planes[channel])
    return torch.from_numpy(planes)


def _instances(annotations: Annotations, keep: np.ndarray) -> InstanceData:
    boxes, labels = torch.from_numpy(annotations.boxes_xyxy[keep]), torch.from_numpy(annotations.labels[keep])
    instances = InstanceData()
    instances.set_field(HorizontalBoxes(boxes, clone=False), 'bboxes')
    instances.set_field(labels, 'labels')
    return instances
