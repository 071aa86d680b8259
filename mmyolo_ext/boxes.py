"""Box geometry: formats, the paired-IoU family, and a check of the boxes of an annotation file.

A box is four numbers in the last dimension, ``xyxy`` (x1, y1, x2, y2), ``cxcywh`` (centre, size) or ``xywh`` (top left
corner, size). Units of the IoU family are those of the caller (pixels, grid cells).

IoU is the Jaccard index; GIoU is eq. 1-4 of arXiv 1902.09630; DIoU and CIoU are eq. 6-11 of arXiv 1911.08287; EIoU is
eq. 6 of arXiv 2101.08158; SIoU is arXiv 2205.12740; powers of them are alpha-IoU, arXiv 2110.13675.
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = [
    'IOU_MODES',
    'at_least_float32',
    'cxcywh_to_xyxy',
    'guess_format',
    'paired_iou',
    'suspect_boxes',
    'xyxy_to_cxcywh',
]

IOU_MODES = ('iou', 'giou', 'diou', 'ciou', 'eiou', 'siou')
SIOU_THETA = 4  # exponent of SIoU's shape cost


def cxcywh_to_xyxy(boxes_cxcywh: Tensor) -> Tensor:
    """Convert boxes from centre and size to corners: (..., 4) -> (..., 4).

    >>> cxcywh_to_xyxy(torch.tensor([[5.0, 5.0, 4.0, 2.0]]))
    tensor([[3., 4., 7., 6.]])
    """
    center, size = boxes_cxcywh.split(2, dim=-1)
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes_xyxy: Tensor) -> Tensor:
    """Convert boxes from corners to centre and size: (..., 4) -> (..., 4).

    >>> xyxy_to_cxcywh(torch.tensor([[3.0, 4.0, 7.0, 6.0]]))
    tensor([[5., 5., 4., 2.]])
    """
    top_left, bottom_right = boxes_xyxy.split(2, dim=-1)
    return torch.cat([(top_left + bottom_right) / 2, bottom_right - top_left], dim=-1)


def paired_iou(
    boxes_xyxy: Tensor, targets_xyxy: Tensor, mode: str = 'iou', eps: float = 1e-7, power: float = 1.0
) -> Tensor:
    """Return the IoU of each box with its target, minus the penalties of the mode.

    Half-precision boxes are converted to float32: areas overflow float16, and ratios lose precision. Sides of negative
    length count as zero. Every value and gradient is finite.

    Args:
        boxes_xyxy: (..., 4), broadcastable with ``targets_xyxy``.
        targets_xyxy: (..., 4), in the same units.
        mode: One of ``IOU_MODES``.
        eps: Added to every denominator, in squared units of the boxes.
        power: alpha of alpha-IoU (eq. 4 of arXiv 2110.13675): the IoU and each penalty are raised to it. Above 1, good
            boxes get more weight.

    Returns:
        (...): IoU in [0, 1], GIoU in [-1, 1], DIoU in [-1, 1], CIoU and SIoU in (-2, 1], EIoU in [-3, 1]; float32, or
        float64 for double boxes.

    Raises:
        ValueError: If ``mode`` is unknown or ``power`` is not above 0.

    >>> paired_iou(torch.tensor([0.0, 0.0, 2.0, 2.0]), torch.tensor([1.0, 0.0, 3.0, 2.0]))
    tensor(0.3333)
    """
    if mode not in IOU_MODES:
        raise ValueError(f'IoU mode must be one of {IOU_MODES}, got {mode!r}')
    if not power > 0:
        raise ValueError(f'power must be above 0, got {power}')
    # the gradient of split is one tensor, that of each slice would be another
    start, end = at_least_float32(boxes_xyxy).split(2, dim=-1)
    target_start, target_end = at_least_float32(targets_xyxy).split(2, dim=-1)
    size, target_size = _size(start, end), _size(target_start, target_end)

    def hull() -> Tensor:
        """Return width and height of the smallest box that encloses both."""
        return _size(torch.minimum(start, target_start), torch.maximum(end, target_end))

    def offset() -> Tensor:
        """Return the vector from the centre of the target to that of the box."""
        return (start + end - target_start - target_end) / 2

    overlap = _area(_size(torch.maximum(start, target_start), torch.minimum(end, target_end)))
    union = _area(size) + _area(target_size) - overlap
    iou = overlap / (union + eps)
    penalties = []
    if mode == 'giou':  # fraction of the enclosing box that neither box covers
        hull_area = _area(hull())
        penalties.append((hull_area - union) / (hull_area + eps))
    if mode == 'ciou':  # difference v of the aspect ratios, times alpha, which has no gradient
        # arctan(w / h) by atan2, whose value and gradient are finite for empty boxes
        angle, target_angle = (torch.atan2(*sides.unbind(-1)) for sides in (size, target_size))
        v = 4 / math.pi**2 * (angle - target_angle).square()
        penalties.append((v / (1 - iou + v + eps)).detach() * v)
    if mode == 'eiou':  # squared differences of the sides over those of the enclosing box
        penalties += ((size - target_size).square() / (hull().square() + eps)).unbind(-1)
    if mode in ('diou', 'ciou', 'eiou'):  # squared distance of the centres over the squared diagonal
        diagonal2 = hull().square().sum(-1)
        penalties.insert(0, offset().square().sum(-1) / (diagonal2 + eps))
    if mode == 'siou':  # half the distance cost, smaller for diagonal offsets, and half the shape cost
        between = offset()
        # sin(2 a), a the angle of the line between the centres: 1 - 2 sin^2(arcsin x - pi/4) of the paper's eq. 1
        angle = 2 * _area(between.abs()) / (between.square().sum(-1) + eps)
        relative2 = between.square() / (hull().square() + eps)
        distance = (1 - torch.exp(-(2 - angle)[..., None] * relative2)).sum(-1)
        mismatch = (size - target_size).abs() / (torch.maximum(size, target_size) + eps)
        penalties += (distance / 2, (1 - torch.exp(-mismatch)).pow(SIOU_THETA).sum(-1) / 2)
    if power != 1:  # clamped, since the slope of a power below 1 is infinite at 0
        iou, *penalties = (values.clamp(min=eps).pow(power) for values in (iou, *penalties))
    return iou - sum(penalties)


def at_least_float32(values: Tensor) -> Tensor:
    """Return float64 tensors unchanged, others as float32."""
    return values if values.dtype == torch.float64 else values.float()


def _area(size: Tensor) -> Tensor:
    """Return width times height: (..., 2) -> (...)."""
    width, height = size.unbind(-1)
    return width * height


def _size(top_left: Tensor, bottom_right: Tensor) -> Tensor:
    return (bottom_right - top_left).clamp(min=0)


COCO_FORMAT = 'COCO boxes are (x, y, width, height) in px with x, y the top left corner: convert them'
# limits of suspect_boxes
TOLERANCE = 0.01  # of the side of the image, at least 1 px, by which a box may exceed it
SUSPICIOUS_SHARE = 0.02  # fraction of boxes outside their image at which other formats are tried
FORMATS = {
    'xyxy': 'corners (x1, y1, x2, y2)',
    'cxcywh': '(centre x, centre y, width, height)',
    'swapped': '(y, x, height, width)',
}
MIN_OUTSIDE = 5  # boxes outside their image, to suspect a format
CLIPPED_SHARE = 0.1  # fraction of boxes outside their image that is worth a warning
FITTING_SHARE = 0.1  # largest fraction of these boxes that may be outside in the format they seem to have
REPEATED_SHARE = 0.1  # fraction of repeated boxes that is an error
FEW_REPEATED = 0.001  # fraction of repeated boxes that is not reported


def suspect_boxes(boxes_xywh: np.ndarray, sizes_wh: np.ndarray, keys: np.ndarray) -> list[tuple[bool, str]]:
    """Check whether all boxes of an annotation file together look like COCO's (x, y, width, height) in px, unrepeated.

    Args:
        boxes_xywh: (G, 4) as in the file, NaN where they are not numbers.
        sizes_wh: (G, 2) px, size of the image of each box.
        keys: (G, 2) ids of image and category.

    Returns:
        Pairs of whether it is an error, and a message with numbers and cure.
    """
    finite = np.isfinite(boxes_xywh).all(1) & (np.abs(boxes_xywh) < 1e9).all(1)
    boxes_xywh, sizes_wh, keys = boxes_xywh[finite], sizes_wh[finite], keys[finite]
    if not len(boxes_xywh):
        return []
    return [*_suspect_format(boxes_xywh, sizes_wh), *_suspect_repeats(boxes_xywh, keys)]


def guess_format(numbers: np.ndarray, sizes_wh: np.ndarray, stated: str = 'xywh') -> tuple[str | None, dict[str, int]]:
    """Guess the format in which all boxes together fit their images, if not in the stated one.

    Another format is tried if at least 2% of the boxes, and 5, reach beyond their image; it has to leave at most a
    tenth of these.

    Args:
        numbers: (G, 4) finite, px.
        sizes_wh: (G, 2) px.
        stated: 'xywh', 'xyxy' or 'cxcywh'.

    Returns:
        Another of these, 'swapped' for x and y exchanged, 'relative' for fractions, or None; and the number of boxes
        that reach beyond their image by format.
    """
    if len(numbers) < MIN_OUTSIDE:
        return None, {stated: 0}
    if stated != 'cxcywh' and numbers.max() <= 1 and numbers.min() >= 0 and sizes_wh.min() > 1:
        return 'relative', {stated: 0}
    margin = np.maximum(TOLERANCE * sizes_wh, 1)
    first, second = numbers[:, :2], numbers[:, 2:]
    corners = {
        'xywh': (first, first + second),
        'xyxy': (first, second),
        'cxcywh': (first - second / 2, first + second / 2),
    }
    low, high = corners[stated]
    corners['swapped'] = low[:, ::-1], high[:, ::-1]
    outside = {}
    for name, (low, high) in corners.items():
        wrong = (low < -margin) | (high > sizes_wh + margin)
        if name == 'xyxy' or stated == 'xyxy':  # corners may be in the wrong order
            wrong |= high <= low
        outside[name] = int(wrong.any(1).sum())
    if outside[stated] < max(SUSPICIOUS_SHARE * len(numbers), MIN_OUTSIDE):
        return None, outside
    name = min((name for name in outside if name != stated), key=outside.get)
    return name if outside[name] <= FITTING_SHARE * outside[stated] else None, outside


def _suspect_format(boxes: np.ndarray, sizes_wh: np.ndarray) -> list[tuple[bool, str]]:
    total, (name, counts) = len(boxes), guess_format(boxes, sizes_wh)
    outside = counts['xywh']
    if name == 'relative':
        return [(True, f'All numbers of the {total} boxes are from 0 to 1: they seem to be relative. {COCO_FORMAT}')]
    facts = f'{outside} of {total} boxes ({outside / total:.0%}) reach beyond their image'
    if name is not None:
        fitting = f'read as {FORMATS[name]}, {total - counts[name]} of {total} lie inside'
        return [(True, f'{facts}; {fitting}. {COCO_FORMAT}')]
    if outside >= max(CLIPPED_SHARE * total, MIN_OUTSIDE):
        return [(False, f'{facts} and are clipped: do the boxes and the sizes of the images have the same scale?')]
    return []


def _suspect_repeats(boxes: np.ndarray, keys: np.ndarray) -> list[tuple[bool, str]]:
    rows = np.concatenate([boxes.view(np.uint64), keys.astype(np.uint64)], 1)
    repeated = len(rows) - len({row.tobytes() for row in rows})
    if repeated <= FEW_REPEATED * len(rows):
        return []
    text = (
        f'{repeated} of {len(rows)} boxes ({repeated / len(rows):.1%}) repeat another box of the same image and '
        'category: remove them, since validation can match only one of each'
    )
    return [(repeated >= REPEATED_SHARE * len(rows), text)]
