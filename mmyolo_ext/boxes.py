"""Pure geometry of boxes: changes of form and the paired-IoU family.

A box is four numbers in the last dimension, either ``xyxy`` (x1, y1, x2, y2) or ``cxcywh`` (centre, size). Units are
the caller's (pixels, grid cells): nothing here depends on them beyond ``eps``.

IoU is the Jaccard index; GIoU is eq. 1-4 of arXiv 1902.09630; DIoU and CIoU are eq. 6-11 of arXiv 1911.08287; EIoU is
eq. 6 of arXiv 2101.08158; SIoU is arXiv 2205.12740; powers of them are alpha-IoU, arXiv 2110.13675.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = [
    'IOU_MODES',
    'at_least_float32',
    'center_offset',
    'check_iou_mode',
    'cxcywh_to_xyxy',
    'hull_size',
    'paired_iou',
    'xyxy_to_cxcywh',
]

# theta of SIoU's shape cost: how much a great mismatch outweighs a small one
SIOU_SHARPNESS = 4


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


def paired_iou(
    boxes_xyxy: Tensor, targets_xyxy: Tensor, mode: str = 'iou', eps: float = 1e-7, power: float = 1.0
) -> Tensor:
    """Overlap of each box with the target at the same place, less what the mode adds for boxes that lie or are wrong.

    Half-precision boxes are raised to float32 first: areas of boxes overflow float16, and their ratios lose the digits
    that tell two good boxes apart. Sides of negative length count as zero. Every value and gradient is finite.

    Args:
        boxes_xyxy: (..., 4), broadcastable with ``targets_xyxy``.
        targets_xyxy: (..., 4), in the same units.
        mode: one of ``IOU_MODES``.
        eps: added to every denominator, in squared units of the boxes.
        power: alpha of alpha-IoU (eq. 4 of arXiv 2110.13675): the IoU and each penalty are raised to it. Above 1 good
            boxes count more.

    Returns:
        (...): IoU in [0, 1], GIoU in [-1, 1], DIoU in [-1, 1], CIoU and SIoU in (-2, 1], EIoU in [-3, 1]; float32, or
        float64 for double boxes.

    Raises:
        ValueError: ``mode`` is unknown, or ``power`` not above 0.

    >>> paired_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
    tensor(0.3333)
    """
    check_iou_mode(mode, power)
    pair = _pair(at_least_float32(boxes_xyxy), at_least_float32(targets_xyxy))
    overlap = _area(_size(torch.maximum(pair.start, pair.target_start), torch.minimum(pair.end, pair.target_end)))
    union = _area(pair.size) + _area(pair.target_size) - overlap
    iou = overlap / (union + eps)
    penalties = IOU_MODES[mode](pair, iou, union, eps)
    return _raised(iou, power, eps) - sum(_raised(penalty, power, eps) for penalty in penalties)


def check_iou_mode(mode: str, power: float = 1.0) -> None:
    """Raise ValueError unless ``mode`` is one of ``IOU_MODES`` and ``power`` is above 0."""
    if mode not in IOU_MODES:
        raise ValueError(f'IoU mode must be one of {tuple(IOU_MODES)}, got {mode!r}')
    if not power > 0:
        raise ValueError(f'power must be above 0, got {power}')


def center_offset(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """From the centre of each target to that of its box: (..., 2)."""
    return _center_offset(_pair(boxes_xyxy, targets_xyxy))


def hull_size(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """Width and height of the smallest box that encloses both: (..., 2)."""
    return _hull_size(_pair(boxes_xyxy, targets_xyxy))


def at_least_float32(values: Tensor) -> Tensor:
    """Double as it is, everything else as float32."""
    return values if values.dtype == torch.float64 else values.float()


class _Pair(NamedTuple):
    """Boxes and targets, taken apart once: each (..., 2)."""

    start: Tensor
    end: Tensor
    target_start: Tensor
    target_end: Tensor
    size: Tensor
    target_size: Tensor


def _pair(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> _Pair:
    # split, whose gradient is one tensor, where each slice would make one of its own
    corners = *boxes_xyxy.split(2, dim=-1), *targets_xyxy.split(2, dim=-1)
    return _Pair(*corners, _size(*corners[:2]), _size(*corners[2:]))


def _iou(pair: _Pair, iou: Tensor, union: Tensor, eps: float) -> tuple[Tensor, ...]:
    return ()


def _giou(pair: _Pair, iou: Tensor, union: Tensor, eps: float) -> tuple[Tensor, ...]:
    """The share of the smallest enclosing box that neither box covers."""
    hull = _area(_hull_size(pair))
    return ((hull - union) / (hull + eps),)


def _diou(pair: _Pair, iou: Tensor, union: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Squared distance of the centres over the squared diagonal of the smallest enclosing box."""
    diagonal2 = _hull_size(pair).square().sum(-1)
    return (_center_offset(pair).square().sum(-1) / (diagonal2 + eps),)


def _ciou(pair: _Pair, iou: Tensor, union: Tensor, eps: float) -> tuple[Tensor, ...]:
    """DIoU's, and alpha * v: v the disagreement of the aspect ratios, alpha a constant for the gradient."""
    v = 4 / math.pi**2 * (_aspect_angle(pair.size) - _aspect_angle(pair.target_size)).square()
    alpha = (v / (1 - iou + v + eps)).detach()
    return *_diou(pair, iou, union, eps), alpha * v


def _eiou(pair: _Pair, iou: Tensor, union: Tensor, eps: float) -> tuple[Tensor, ...]:
    """DIoU's, and the squared differences of width and of height over the squared sides of the enclosing box."""
    sides = (pair.size - pair.target_size).square() / (_hull_size(pair).square() + eps)
    return *_diou(pair, iou, union, eps), *sides.unbind(-1)


def _siou(pair: _Pair, iou: Tensor, union: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Half the cost of the distance, which an offset along the diagonal lessens, and half that of the shape."""
    offset = _center_offset(pair)
    # sin(2 a), a the angle of the line between the centres: 1 - 2 sin^2(arcsin x - pi/4) of the paper's eq. 1
    angle = 2 * _area(offset.abs()) / (offset.square().sum(-1) + eps)
    relative2 = offset.square() / (_hull_size(pair).square() + eps)
    distance = (1 - torch.exp(-(2 - angle)[..., None] * relative2)).sum(-1)
    mismatch = (pair.size - pair.target_size).abs() / (torch.maximum(pair.size, pair.target_size) + eps)
    shape = (1 - torch.exp(-mismatch)).pow(SIOU_SHARPNESS).sum(-1)
    return distance / 2, shape / 2


def _center_offset(pair: _Pair) -> Tensor:
    return (pair.start + pair.end - pair.target_start - pair.target_end) / 2


def _hull_size(pair: _Pair) -> Tensor:
    return _size(torch.minimum(pair.start, pair.target_start), torch.maximum(pair.end, pair.target_end))


def _aspect_angle(size: Tensor) -> Tensor:
    """arctan(w / h), by atan2, whose value and gradient are finite for a box without area too."""
    width, height = size.unbind(-1)
    return torch.atan2(width, height)


def _raised(values: Tensor, power: float, eps: float) -> Tensor:
    # a power has no finite slope at 0 below 1, and none at all for what rounding left a little below 0
    return values if power == 1 else values.clamp(min=eps).pow(power)


def _area(size: Tensor) -> Tensor:
    """Width times height: (..., 2) -> (...)."""
    width, height = size.unbind(-1)
    return width * height


def _size(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0)


# the terms that each mode takes off the IoU
IOU_MODES: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    'iou': _iou,
    'giou': _giou,
    'diou': _diou,
    'ciou': _ciou,
    'eiou': _eiou,
    'siou': _siou,
}
