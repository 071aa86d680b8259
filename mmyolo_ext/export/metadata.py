"""What a runtime must know of an exported detector, to be kept inside the file."""

import json
from collections.abc import Sequence

from torch import nn

from mmyolo_ext.export.nms_graph import rule_of
from mmyolo_ext.version import __version__

FORMAT = 1  # raised when a key changes its meaning: a runtime refuses what it does not know


def describe(
    detector: nn.Module,
    names: Sequence[str],
    letterbox: dict,
    size_hw: tuple[int, int],
    *,
    nms: bool = False,
    dynamic: bool = False,
    precision: str = 'float32',
) -> dict[str, str]:
    """The metadata of an export: each value is JSON. ``docs/guides/export.md`` lists the keys.

    Args:
        detector: whose head and preprocessor are described.
        names: of the C classes.
        letterbox: how a picture is put into the input: ``pad_val``, ``centred``, ``allow_upscale``, ``interpolation``.
        size_hw: that a picture is fitted into.
        nms: whether suppression is inside the graph.
        dynamic: whether batch and size are open.
        precision: of the weights.

    Raises:
        ValueError: as many names as classes are needed; a suppression that is not exported.
    """
    head = detector.bbox_head
    if len(names) != head.num_classes:
        raise ValueError(f'the head has {head.num_classes} classes, got {len(names)} names: {tuple(names)}')
    rule = rule_of(head)
    values = {
        'format': FORMAT,
        'mmyolo_ext': __version__,
        'names': list(names),
        'size_hw': list(size_hw),
        'strides': list(head.strides),
        'dynamic': dynamic,
        'precision': precision,
        'letterbox': letterbox,
        **_normalisation(detector.data_preprocessor),
        'activation': 'sigmoid' if head.use_sigmoid else 'softmax',
        'multi_label': rule.multi_label,
        'nms_in_graph': nms,
        'score_thr': rule.score_thr,
        'nms_pre': rule.nms_pre,
        'nms_iou': rule.iou_thr,
        'class_agnostic': rule.class_agnostic,
        'max_per_img': rule.max_per_img,
    }
    return {key: json.dumps(value) for key, value in values.items()}


def _normalisation(preprocessor: nn.Module) -> dict:
    """Order of the channels, and the mean and std of each in that order: input = (pixel - mean) / std."""
    mean, std = [0.0] * 3, [1.0] * 3
    if preprocessor._enable_normalize:
        # one number may stand for all channels
        mean, std = (buffer.flatten().expand(3).tolist() for buffer in (preprocessor.mean, preprocessor.std))
    return {'channels': 'RGB' if preprocessor._channel_conversion else 'BGR', 'mean': mean, 'std': std}
