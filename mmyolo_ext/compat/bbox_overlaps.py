"""IoU, or intersection over the first box's area, of boxes x1 y1 x2 y2."""

from torch import Tensor

IOU, IOF = 0, 1


def bbox_overlaps(bboxes1: Tensor, bboxes2: Tensor, ious: Tensor, mode: int, aligned: bool, offset: int) -> None:
    """Fill ``ious`` with the overlaps of (M, 4) and (N, 4) boxes: (M, N), or (M,) for pairs if ``aligned``.

    Args:
        mode: :data:`IOU` or :data:`IOF`.
        offset: 0, or 1 for boxes whose x2 and y2 are the last pixel inside.
    """
    if not aligned:
        bboxes1 = bboxes1[:, None]
    inner_x1, inner_y1 = (bboxes1[..., side].maximum(bboxes2[..., side]) for side in (0, 1))
    inner_x2, inner_y2 = (bboxes1[..., side].minimum(bboxes2[..., side]) for side in (2, 3))
    common = (inner_x2 - inner_x1 + offset).clamp(min=0) * (inner_y2 - inner_y1 + offset).clamp(min=0)
    whole = _area(bboxes1, offset)
    if mode == IOU:
        whole = whole + _area(bboxes2, offset) - common
    ious.copy_(common / whole)


def _area(boxes: Tensor, offset: int) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return (x2 - x1 + offset) * (y2 - y1 + offset)
