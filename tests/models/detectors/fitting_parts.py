"""Small components of ours and of mmdet, and a sample to train them."""

from typing import Any

import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData

SIZE_HW = (64, 96)


def resnet(out_indices: tuple[int, ...], **options: Any) -> dict:
    """Strides 4, 8, 16, 32 and channels 8, 16, 32, 64 by index; declares neither."""
    return {
        'type': 'mmdet.ResNet',
        'depth': 18,
        'base_channels': 8,
        'stem_channels': 8,
        'out_indices': out_indices,
        **options,
    }


def pafpn(**options: Any) -> dict:
    """Our neck, to channels 16, 32, 64."""
    return {
        'type': 'mmyolo_ext.YOLOv5PAFPN',
        'in_channels': 'auto',
        'out_channels': (256, 512, 1024),
        'widen_factor': 0.0625,
        'deepen_factor': 0.33,
        **options,
    }


def fpn(num_outs: int = 3, **options: Any) -> dict:
    """mmdet's neck, to 16 channels a level."""
    return {'type': 'mmdet.FPN', 'in_channels': 'auto', 'out_channels': 16, 'num_outs': num_outs, **options}


def yolov5_head(**options: Any) -> dict:
    """Our head of strides 8, 16, 32."""
    return {'type': 'mmyolo_ext.YOLOv5Head', 'num_classes': 3, 'in_channels': 'auto', **options}


def retina_head(strides: tuple[int, ...] = (8, 16, 32, 64, 128), **options: Any) -> dict:
    """mmdet's head of one number of channels for all levels."""
    return {
        'type': 'mmdet.RetinaHead',
        'num_classes': 3,
        'in_channels': 'auto',
        'stacked_convs': 1,
        'feat_channels': 16,
        'anchor_generator': {
            'type': 'mmdet.AnchorGenerator',
            'octave_base_scale': 4,
            'scales_per_octave': 3,
            'ratios': [0.5, 1.0, 2.0],
            'strides': list(strides),
        },
        **options,
    }


def detector(backbone: dict, neck: dict | list[dict] | None = None, head: dict | None = None, **options: Any) -> dict:
    """With our head, if no other is given."""
    return {
        'type': 'mmyolo_ext.YOLODetector',
        'backbone': backbone,
        'neck': neck,
        'bbox_head': head or yolov5_head(),
        **options,
    }


def sample(size_hw: tuple[int, int] = SIZE_HW, with_box: bool = True) -> DetDataSample:
    """Return the ground truth of one image, with one box or none."""
    shapes = dict.fromkeys(('img_shape', 'pad_shape', 'batch_input_shape', 'ori_shape'), size_hw)
    boxes = [[4.0, 6, 40, 50]] if with_box else []
    result = DetDataSample(metainfo={**shapes, 'scale_factor': (1.0, 1.0)})
    result.gt_instances = InstanceData(
        bboxes=torch.tensor(boxes).reshape(-1, 4), labels=torch.zeros(len(boxes), dtype=torch.long)
    )
    return result
