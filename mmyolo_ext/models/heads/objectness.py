"""What the objectness loss of a level is taught, and which of its places count.

Letters: N images, A anchors of the level, P positives, K ignore regions of the batch.
"""

from collections.abc import Sequence

import torch
from mmdet.structures.bbox import bbox_overlaps
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.heads.batch_boxes import BatchBoxes, flat_index
from mmyolo_ext.models.task_modules import Positives


def objectness_targets(positives: Positives, values: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """0, and at the positives their values; the highest wins where several fall in one place.

    So the target does not hang on the order in which a device writes.

    Args:
        positives: P of them.
        values: (P,), not negative; those of padding are left out.
        shape: (N, A, H, W).

    Returns:
        Tensor of that shape.
    """
    if positives.valid is not None:
        values = values * positives.valid
    background = values.new_zeros(shape).flatten()
    return background.scatter_reduce(0, flat_index(positives, shape), values, reduce='amax').view(shape)


def counted_places(
    ignored: BatchBoxes, positives: Positives, priors_xyxy: Tensor, num_images: int, iof_thr: float
) -> Tensor:
    """Which places add objectness loss: not those whose anchor lies in an ignore region of their own picture.

    Args:
        ignored: K ignore regions.
        positives: they count wherever they lie.
        priors_xyxy: (A, H, W, 4) px.
        num_images: N.
        iof_thr: an anchor lies in a region that covers this share of its area.

    Returns:
        (N, A, H, W) bool.
    """
    shape = (num_images, *priors_xyxy.shape[:3])
    covered = bbox_overlaps(priors_xyxy.flatten(0, 2), ignored.boxes_xyxy, mode='iof') >= iof_thr  # (A*H*W, K)
    regions = priors_xyxy.new_zeros(num_images, len(covered)).index_add(0, ignored.image, covered.T.float())
    taught = objectness_targets(positives, priors_xyxy.new_ones(len(positives)), shape)
    return (regions.view(shape) == 0) | (taught > 0)


def prior_boxes(anchors_wh: Tensor, stride: int, grid_hw: tuple[int, int]) -> Tensor:
    """The anchors of a level in the middle of every cell: (A, 2) px -> (A, H, W, 4) xyxy px."""
    rows, columns = ((torch.arange(size, device=anchors_wh.device) + 0.5) * stride for size in grid_hw)
    center_y, center_x = torch.meshgrid(rows, columns, indexing='ij')
    center = torch.stack([center_x, center_y], dim=-1).expand(len(anchors_wh), -1, -1, -1)
    return cxcywh_to_xyxy(torch.cat([center, anchors_wh[:, None, None].expand_as(center)], dim=-1))


def counted_by_level(
    ignored: BatchBoxes,
    positives: Sequence[Positives],
    anchors_wh: Sequence[Tensor],
    strides: Sequence[int],
    shapes: Sequence[tuple[int, int, int, int]],
    iof_thr: float,
) -> list[Tensor | None]:
    """:func:`counted_places` of every level, of these shapes; None where there is no ignore region."""
    if len(ignored.image) == 0:
        return [None] * len(shapes)
    return [
        counted_places(ignored, matches, prior_boxes(level_anchors, stride, shape[-2:]), shape[0], iof_thr)
        for matches, level_anchors, stride, shape in zip(positives, anchors_wh, strides, shapes, strict=True)
    ]
