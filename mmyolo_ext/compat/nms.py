"""Greedy non-maximum suppression, index for index what mmcv's compiled CPU op returns.

Written from the definition: go through the boxes by falling score; keep a box unless its IoU with one kept before
exceeds the threshold. The definition costs (boxes x kept) IoUs, one at a time. Here they are taken in matrices:

1. boxes are cut into groups that cannot overlap across their borders (:func:`_groups`): mmcv shifts every class to
   its own stretch of the x axis, so a call over many classes falls apart into small ones;
2. a group is worked off in blocks by falling score: a matrix of overlaps inside the block, a greedy pass over it on
   integers as bit sets, and one matrix of the block's survivors against what is left of the group.

Letters: N boxes, K kept.
"""

import numpy as np
import torch
from torch import Tensor

from .corners import Corners, iou_matrix
from .torchvision_ops import torchvision_ops

BLOCK = 128
"""Boxes of a block. 64 to 256 are equally fast; the matrices of overlaps then stay in the cache."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, by falling score (equal scores: as ``Tensor.sort`` orders them).

    Args:
        boxes: (N, 4), x1 y1 x2 y2; computed with in float32.
        scores: (N,).
        iou_threshold: a box is dropped where its IoU with a better one is strictly greater, in float32.
        offset: 0, or 1 for boxes whose x2 and y2 are the last pixel inside.

    Returns:
        (K,), int64, on the boxes' device.
    """
    boxes, scores = boxes.detach().float(), scores.detach()
    threshold, one = np.float32(iou_threshold), np.float32(offset)
    if boxes.is_cuda and offset == 0 and torchvision_ops(boxes.device) is not None:
        return torchvision_ops(boxes.device).nms(boxes, scores.float(), float(threshold))
    order = scores.sort(0, descending=True)[1]
    if boxes.numel() == 0:
        return order.new_empty(0)
    with np.errstate(all='ignore'):
        kept = _nms_by_groups(Corners.of(boxes[order].cpu().numpy(), one), threshold, one)
    return order[torch.from_numpy(kept).to(order.device)]


def _nms_by_groups(corners: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Ranks of the kept boxes, rising. A negative threshold lets distant boxes drop each other: one group."""
    if len(corners.area) <= BLOCK or threshold < 0:
        return _nms_by_blocks(corners, threshold, offset)
    kept = [ranks[_nms_by_blocks(corners.take(ranks), threshold, offset)] for ranks in _groups(corners, offset)]
    return np.sort(np.concatenate(kept))


def _groups(corners: Corners, offset: np.float32) -> list[np.ndarray]:
    """Ranks of the boxes, rising in each group, such that boxes of different groups have no common area.

    A cut lies before a box that starts at or past the end of all boxes that start before it. float32 subtraction is
    monotone, so the widths computed later between the two sides of a cut are not positive either. NaN makes no cut.
    Neighbouring small groups are joined up to a block.
    """
    by_x = np.argsort(corners.x1, kind='stable')
    end = np.maximum.accumulate(corners.x2[by_x])
    cuts = np.flatnonzero(end[:-1] - corners.x1[by_x][1:] + offset <= 0) + 1
    cuts = np.append(cuts, len(by_x))
    groups, start = [], 0
    while start < len(by_x):
        first, beyond = np.searchsorted(cuts, [start, start + BLOCK], side='right')
        stop = cuts[max(first, beyond - 1)]
        groups.append(np.sort(by_x[start:stop]))
        start = stop
    return groups


def _nms_by_blocks(corners: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Ranks of the kept boxes, rising."""
    alive = np.arange(len(corners.area))
    kept = []
    while len(alive):
        block = corners.take(slice(0, BLOCK))
        survivors = _greedy(iou_matrix(block, block, offset) > threshold)
        kept.append(alive[:BLOCK][survivors])
        alive = alive[BLOCK:]
        if len(alive):
            corners = corners.take(slice(BLOCK, None))
            free = _free(block.take(survivors), corners, threshold, offset)
            alive, corners = alive[free], corners.take(free)
    return np.concatenate(kept)


def _greedy(overlaps: np.ndarray) -> np.ndarray:
    """Rows, rising, that no row kept before them overlaps. Only the part right of the diagonal matters."""
    rows = np.packbits(overlaps, axis=1, bitorder='little')
    dropped, kept = 0, []
    for index, row in enumerate(rows):
        if not dropped >> index & 1:
            kept.append(index)
            dropped |= int.from_bytes(row.tobytes(), 'little')
    return np.array(kept, dtype=np.int64)


def _free(kept: Corners, rest: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Which boxes of ``rest`` overlap none of ``kept``, boolean. Chunks of 64 Ki IoUs stay in the cache."""
    width = max(1, 2**16 // len(kept.area))
    chunks = [rest.take(slice(at, at + width)) for at in range(0, len(rest.area), width)]
    return ~np.concatenate([(iou_matrix(kept, chunk, offset) > threshold).any(0) for chunk in chunks])
