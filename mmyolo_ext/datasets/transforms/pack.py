"""From the results of a pipeline to what the model reads."""

import numpy as np
import torch
from mmdet.datasets.transforms import PackDetInputs
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmengine.structures import InstanceData

from mmyolo_ext.registry import TRANSFORMS

from .annotations import Annotations, as_boxes, read_annotations

MORE_TO_PACK = ('gt_masks', 'gt_seg_map', 'proposals')


@TRANSFORMS.register_module()
class PackInputs(PackDetInputs):
    """mmdet's ``PackDetInputs``, in a third of its time for a uint8 picture with upright boxes.

    What comes out is the same: ``inputs`` (3, H, W) uint8, and a ``DetDataSample`` of ``gt_instances`` and, for boxes
    flagged to be ignored, ``ignored_instances``. Only the pixels still lie in memory as they did in the picture, until
    :func:`stack_inputs` lays them out for the whole batch. Anything else is packed by mmdet's own.
    """

    def transform(self, results: dict) -> dict:
        image = results.get('img')
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
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
        return {'inputs': _channels_first(image), 'data_samples': sample}


def _channels_first(image: np.ndarray) -> torch.Tensor:
    """(H, W, 3) -> (3, H, W), a view unless the memory is another's, such as a cache's."""
    own = image.flags.owndata and image.flags.writeable
    return torch.from_numpy(image if own else image.copy()).permute(2, 0, 1)


def _instances(annotations: Annotations, keep: np.ndarray) -> InstanceData:
    instances = InstanceData()
    instances.set_field(as_boxes(annotations.boxes_xyxy[keep]), 'bboxes')
    instances.set_field(torch.from_numpy(annotations.labels[keep]), 'labels')
    return instances
