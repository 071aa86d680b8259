"""Pure geometry of boxes: changes of form and the paired-IoU family.

A box is four numbers in the last dimension, either ``xyxy`` (x1, y1, x2, y2) or ``cxcywh`` (centre, size). Units are
the caller's (pixels, grid cells): nothing here depends on them beyond ``eps``.

IoU is the Jaccard index; GIoU is eq. 1-4 of arXiv 1902.09630; DIoU and CIoU are eq. 6-11 of arXiv 1911.08287.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ['IOU_MODES', 'check_iou_mode', 'cxcywh_to_xyxy', 'paired_iou', 'xyxy_to_cxcywh']


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Corners of boxes given by centre and size: (..., 4) -> (..., 4).

    >>> cxcywh_to_xyxy(torch.tensor([[5.0, 5.0, 4.0, 2.0]]))
    tensor([[3., 4., 7., 6.]])
    """
    center, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Centre and size of boxes given by corners: (..., 4) -> (..., 4).

    >>> xyxy_to_cxcywh(torch.tensor([[3.0, 4.0, 7.0, 6.0]]))
    tensor([[5., 5., 4., 2.]])
    """
    top_left, bottom_right = boxes_xyxy.split(2, dim=-1)
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def paired_iou(boxes_xyxy: Tensor, targets_xyxy: Tensor, mode: str = 'iou', eps: float = 1e-7) -> Tensor:
    """Overlap of each box with the target at the same place.

    Half-precision boxes are raised to float32 first: areas of boxes overflow float16, and their ratios lose the digits
    that tell two good boxes apart. Sides of negative length count as zero. Every value and gradient is finite.

    Args:
        boxes_xyxy: (..., 4), broadcastable with ``targets_xyxy``.
        targets_xyxy: (..., 4), in the same units.
        mode: one of ``IOU_MODES``.
        eps: added to every denominator, in squared units of the boxes.

    Returns:
        (...): IoU in [0, 1], GIoU in [-1, 1], DIoU in [-1, 1], CIoU in (-2, 1]; float32, or float64 for double boxes.

    Raises:
        ValueError: ``mode`` is unknown.

    >>> paired_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
    tensor(0.3333)
    """
    check_iou_mode(mode)
    boxes_xyxy, targets_xyxy = _at_least_float32(boxes_xyxy), _at_least_float32(targets_xyxy)
    overlap_wh = _size(
        torch.maximum(boxes_xyxy[..., :2], targets_xyxy[..., :2]),
        torch.minimum(boxes_xyxy[..., 2:], targets_xyxy[..., 2:]),
    )
    overlap = overlap_wh.prod(-1)
    union = _size_of(boxes_xyxy).prod(-1) + _size_of(targets_xyxy).prod(-1) - overlap
    iou = overlap / (union + eps)
    penalty = IOU_MODES[mode]
    return iou if penalty is None else iou - penalty(boxes_xyxy, targets_xyxy, iou, union, eps)


def check_iou_mode(mode: str) -> None:
    """Raise ValueError unless ``mode`` is one of ``IOU_MODES``."""
    if mode not in IOU_MODES:
        raise ValueError(f'IoU mode must be one of {tuple(IOU_MODES)}, got {mode!r}')


def _giou_penalty(boxes: Tensor, targets: Tensor, iou: Tensor, union: Tensor, eps: float) -> Tensor:
    """The share of the smallest enclosing box that neither box covers."""
    hull = _hull_size(boxes, targets).prod(-1)
    return (hull - union) / (hull + eps)


def _diou_penalty(boxes: Tensor, targets: Tensor, iou: Tensor, union: Tensor, eps: float) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the smallest enclosing box."""
    hull_diagonal2 = _hull_size(boxes, targets).square().sum(-1)
    offset = (boxes[..., :2] + boxes[..., 2:] - targets[..., :2] - targets[..., 2:]) / 2
    return offset.square().sum(-1) / (hull_diagonal2 + eps)


def _ciou_penalty(boxes: Tensor, targets: Tensor, iou: Tensor, union: Tensor, eps: float) -> Tensor:
    """DIoU's penalty plus alpha * v, v the disagreement of the aspect ratios."""
    v = 4 / math.pi**2 * (_aspect_angle(boxes) - _aspect_angle(targets)).square()
    alpha = (v / (1 - iou + v + eps)).detach()
    return _diou_penalty(boxes, targets, iou, union, eps) + alpha * v


def _aspect_angle(boxes_xyxy: Tensor) -> Tensor:
    """arctan(w / h), by atan2, whose value and gradient are finite for a box without area too."""
    width, height = _size_of(boxes_xyxy).unbind(-1)
    return torch.atan2(width, height)


def _hull_size(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """Width and height of the smallest box that encloses both."""
    return _size(
        torch.minimum(boxes_xyxy[..., :2], targets_xyxy[..., :2]),
        torch.maximum(boxes_xyxy[..., 2:], targets_xyxy[..., 2:]),
    )


def _size_of(boxes_xyxy: Tensor) -> Tensor:
    return _size(boxes_xyxy[..., :2], boxes_xyxy[..., 2:])


def _size(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0)


def _at_least_float32(boxes: Tensor) -> Tensor:
    return boxes if boxes.dtype == torch.float64 else boxes.float()


IOU_MODES: dict[str, Callable | None] = {
    'iou': None,
    'giou': _giou_penalty,
    'diou': _diou_penalty,
    'ciou': _ciou_penalty,
}
