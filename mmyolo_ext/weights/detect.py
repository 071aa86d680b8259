"""Which tool wrote a checkpoint, told by what is in it."""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from mmyolo_ext.weights.mmyolo import is_mmyolo
from mmyolo_ext.weights.ultralytics import is_ultralytics

FORMATS = ('ultralytics', 'mmyolo', 'mmyolo_ext', 'darknet', 'backbone')
# torchvision's and mmpretrain's ShuffleNetV2 and MobileNetV3, alone or with their classifier
BACKBONE = re.compile(r'(backbone\.)?(features\.0\.0\.weight|conv1\.(0|conv)\.weight|conv0\.conv\.weight)')


def state_dict_of(content: Any) -> dict[str, Tensor]:
    """The tensors by their names, without what a wrapper for several devices puts before them; empty if none."""
    inner = content.get('state_dict', content) if isinstance(content, Mapping) else {}
    inner = inner if isinstance(inner, Mapping) else {}
    return {str(key).removeprefix('module.'): value for key, value in inner.items() if isinstance(value, Tensor)}


def detect(content: Any) -> str | None:
    """One of :data:`FORMATS`, or None for something else, such as a checkpoint of another model of mmdet.

    Darknet's ``.weights`` are no checkpoints of torch, and are told by their suffix.
    """
    if is_ultralytics(content):
        return 'ultralytics'
    weights = state_dict_of(content)
    if is_mmyolo(weights):
        return 'mmyolo'
    if 'backbone.layers.1.0.conv.weight' in weights and 'bbox_head.convs_pred.0.weight' in weights:
        return 'mmyolo_ext'
    return 'backbone' if any(BACKBONE.match(name) for name in weights) else None
