"""Greedy non-maximum suppression, index for index what mmcv's compiled CPU op returns.

Written from the definition: go through the boxes by falling score; keep a box unless its IoU with one kept before
exceeds the threshold. The definition costs (boxes x kept) IoUs, one at a time. Here they are taken in matrices:

1. boxes are cut into groups that cannot overlap across their borders (:func:`_groups`): mmcv shifts every class to
   its own stretch of the x axis, so a call over many classes falls apart into small ones;
2. a group is worked off in blocks by falling score: a matrix of overlaps inside the block, a greedy pass over it on
   integers as bit sets, and one matrix of the block's survivors against what is left of the group.

Every IoU that decides something is computed in float32 with the compiled op's order of operations.

Letters: N boxes, K kept.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

BLOCK = 512
"""Boxes of a block: a matrix of overlaps of 1 MiB."""


class Corners(NamedTuple):
    """Boxes as five float32 arrays of one length."""

    x1: np.ndarray
    y1: np.ndarray
    x2: np.ndarray
    y2: np.ndarray
    area: np.ndarray

    def take(self, index: np.ndarray | slice) -> 'Corners':
        return Corners(*(side[index] for side in self))


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Indices of the boxes kept, by falling score (equal scores: as ``Tensor.sort`` orders them).

    Args:
        boxes: (N, 4), x1 y1 x2 y2; computed with in float32.
        scores: (N,).
        iou_threshold: a box is dropped where its IoU with a better one is strictly greater.
        offset: 0, or 1 for boxes whose x2 and y2 are the last pixel inside.

    Returns:
        (K,), int64, on the boxes' device.
    """
    order = scores.detach().sort(0, descending=True)[1]
    if boxes.numel() == 0:
        return order.new_empty(0)
    sides = boxes.detach().float()[order].cpu().numpy().T
    x1, y1, x2, y2 = (np.ascontiguousarray(side) for side in sides)
    with np.errstate(all='ignore'):
        one = np.float32(offset)
        corners = Corners(x1, y1, x2, y2, (x2 - x1 + one) * (y2 - y1 + one))
        kept = _nms_by_groups(corners, np.float32(iou_threshold), one)
    return order[torch.from_numpy(kept).to(order.device)]


def _nms_by_groups(corners: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Ranks of the kept boxes, rising. A negative threshold lets distant boxes drop each other: one group."""
    count = len(corners.area)
    if count <= BLOCK or threshold < 0:
        return _nms_by_blocks(corners, threshold, offset)
    kept = [ranks[_nms_by_blocks(corners.take(ranks), threshold, offset)] for ranks in _groups(corners, offset)]
    return np.sort(np.concatenate(kept))


def _groups(corners: Corners, offset: np.float32) -> list[np.ndarray]:
    """Ranks of the boxes, rising in each group, such that boxes of different groups have no common area.

    A cut lies before a box that starts at or past the end of all boxes that start before it. float32 subtraction is
    monotone, so the widths computed later between the two sides of a cut are not positive either. NaN makes no cut.
    """
    by_x = np.argsort(corners.x1, kind='stable')
    end = np.maximum.accumulate(corners.x2[by_x])
    cuts = np.flatnonzero(end[:-1] - corners.x1[by_x][1:] + offset <= 0) + 1
    groups, start, count = [], 0, len(by_x)
    while start < count:
        wide, near = np.searchsorted(cuts, [start + BLOCK, start], side='right')
        stop = cuts[wide - 1] if wide > near else cuts[near] if near < len(cuts) else count
        if count - start <= BLOCK:
            stop = count
        groups.append(np.sort(by_x[start:stop]))
        start = stop
    return groups


def _nms_by_blocks(corners: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Ranks of the kept boxes, rising."""
    alive = np.arange(len(corners.area))
    kept = []
    while len(alive):
        block = corners.take(slice(0, BLOCK))
        survivors = _greedy(_overlaps(block, block, threshold, offset))
        kept.append(alive[:BLOCK][survivors])
        alive = alive[BLOCK:]
        if len(alive):
            corners = corners.take(slice(BLOCK, None))
            free = _free(block.take(survivors), corners, threshold, offset)
            alive, corners = alive[free], corners.take(free)
    return np.concatenate(kept)


def _free(kept: Corners, rest: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Which boxes of ``rest`` overlap none of ``kept``, boolean."""
    width = max(1, 2**16 // len(kept.area))
    chunks = [rest.take(slice(at, at + width)) for at in range(0, len(rest.area), width)]
    return ~np.concatenate([_overlaps(kept, chunk, threshold, offset).any(0) for chunk in chunks])


def _overlaps(a: Corners, b: Corners, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Boolean matrix IoU(a_i, b_j) > threshold. 0 / 0 is no overlap, as in the compiled op."""
    width = np.minimum(a.x2[:, None], b.x2)
    width -= np.maximum(a.x1[:, None], b.x1)
    height = np.minimum(a.y2[:, None], b.y2)
    height -= np.maximum(a.y1[:, None], b.y1)
    if offset:
        width += offset
        height += offset
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    width *= height
    union = np.add(a.area[:, None], b.area, out=height)
    union -= width
    width /= union
    return width > threshold


def _greedy(overlaps: np.ndarray) -> np.ndarray:
    """Rows, rising, that no row kept before them overlaps. Only the part right of the diagonal is read."""
    rows = np.packbits(overlaps, axis=1, bitorder='little')
    dropped, kept = 0, []
    for index, row in enumerate(rows):
        if not dropped >> index & 1:
            kept.append(index)
            dropped |= int.from_bytes(row.tobytes(), 'little')
    return np.array(kept, dtype=np.int64)
