"""Greedy NMS, soft-NMS and NMS with groups, with the indices that mmcv's compiled CPU ops return.

NMS goes through the boxes by falling score, and keeps a box unless its IoU with a kept one exceeds the threshold. That
costs (boxes x kept) IoUs; here they are computed in matrices:

1. boxes are cut into groups that cannot overlap across their borders (:func:`_groups`): mmcv shifts every class to
   its own range of the x axis, so a call over many classes splits into small ones;
2. a group is processed in blocks by falling score: a matrix of IoUs inside the block, a greedy pass over it with
   integers as bit sets, and a matrix of the kept boxes against the rest of the group.

Soft-NMS (Bodla et al., arXiv 1704.04503) lowers the scores of boxes near a better one instead of dropping them.

Letters: N boxes, K kept.
"""

import numpy as np
import torch
from torch import Tensor

from mmyolo_ext.ops.sampling import torchvision_ops


def corners_of(boxes_xyxy: np.ndarray, offset: np.float32) -> np.ndarray:
    """Convert (N, 4) to (5, N) float32, x1, y1, x2, y2 and area.

    Args:
        boxes_xyxy: (N, 4).
        offset: 1 if x2 and y2 are the last pixel inside, else 0.
    """
    x1, y1, x2, y2 = np.ascontiguousarray(boxes_xyxy.T, dtype=np.float32)
    return np.stack([x1, y1, x2, y2, (x2 - x1 + offset) * (y2 - y1 + offset)])


def iou_matrix(a: np.ndarray, b: np.ndarray, offset: np.float32) -> np.ndarray:
    """Return the IoU of each box of ``a`` (rows) with each of ``b`` in float32; NaN for two boxes without area.

    Boxes are in the form of :func:`corners_of`. A threshold decides on a float32 IoU, so the order of operations is
    that of mmcv's CPU ops.
    """
    a = a[:, :, None]
    width = np.minimum(a[2], b[2])
    width -= np.maximum(a[0], b[0])
    height = np.minimum(a[3], b[3])
    height -= np.maximum(a[1], b[1])
    if offset:
        width += offset
        height += offset
    np.maximum(width, 0, out=width)
    np.maximum(height, 0, out=height)
    common = np.multiply(width, height, out=width)
    union = np.add(a[4], b[4], out=height)
    union -= common
    return np.divide(common, union, out=common)


BLOCK = 128
"""Boxes of a block. 64 to 256 are equally fast; the matrices of overlaps then stay in the cache."""


def nms(boxes: Tensor, scores: Tensor, iou_threshold: float, offset: int) -> Tensor:
    """Return the indices of the kept boxes by falling score, equal scores in the order of ``Tensor.sort``.

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
        kept = _nms_by_groups(corners_of(boxes[order].cpu().numpy(), one), threshold, one)
    return order[torch.from_numpy(kept).to(order.device)]


def _nms_by_groups(corners: np.ndarray, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Return the ranks of the kept boxes, ascending.

    With a negative threshold distant boxes suppress each other, so all are one group.
    """
    if corners.shape[1] <= BLOCK or threshold < 0:
        return _nms_by_blocks(corners, threshold, offset)
    kept = [
        ranks[_nms_by_blocks(corners.take(ranks, axis=1), threshold, offset)] for ranks in _groups(corners, offset)
    ]
    return np.sort(np.concatenate(kept))


def _groups(corners: np.ndarray, offset: np.float32) -> list[np.ndarray]:
    """Return the ranks of the boxes, ascending in each group; boxes of different groups have no common area.

    A cut lies before a box that starts at or past the end of all boxes that start before it. float32 subtraction is
    monotone, so the widths computed later between the two sides of a cut are not positive either. NaN makes no cut.
    Neighbouring small groups are joined up to a block.
    """
    by_x = np.argsort(corners[0], kind='stable')
    end = np.maximum.accumulate(corners[2][by_x])
    cuts = np.flatnonzero(end[:-1] - corners[0][by_x][1:] + offset <= 0) + 1
    cuts = np.append(cuts, len(by_x))
    groups, start = [], 0
    while start < len(by_x):
        first, beyond = np.searchsorted(cuts, [start, start + BLOCK], side='right')
        stop = cuts[max(first, beyond - 1)]
        groups.append(np.sort(by_x[start:stop]))
        start = stop
    return groups


def _nms_by_blocks(corners: np.ndarray, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Return the ranks of the kept boxes, ascending."""
    alive = np.arange(corners.shape[1])
    kept = []
    while len(alive):
        block = corners[:, :BLOCK]
        survivors = _greedy(iou_matrix(block, block, offset) > threshold)
        kept.append(alive[:BLOCK][survivors])
        alive = alive[BLOCK:]
        if len(alive):
            corners = corners[:, BLOCK:]
            free = _free(block.take(survivors, axis=1), corners, threshold, offset)
            alive, corners = alive[free], corners.compress(free, axis=1)
    return np.concatenate(kept)


def _greedy(overlaps: np.ndarray) -> np.ndarray:
    """Return the rows, ascending, that no row kept before them overlaps (read: right of the diagonal)."""
    rows = np.packbits(overlaps, axis=1, bitorder='little')
    dropped, kept = 0, []
    for index, row in enumerate(rows):
        if not dropped >> index & 1:
            kept.append(index)
            dropped |= int.from_bytes(row.tobytes(), 'little')
    return np.array(kept, dtype=np.int64)


def _free(kept: np.ndarray, rest: np.ndarray, threshold: np.float32, offset: np.float32) -> np.ndarray:
    """Return a mask of the boxes of ``rest`` that overlap none of ``kept``. Chunks of 64 Ki IoUs stay in the cache."""
    width = max(1, 2**16 // kept.shape[1])
    chunks = [rest[:, at : at + width] for at in range(0, rest.shape[1], width)]
    return ~np.concatenate([(iou_matrix(kept, chunk, offset) > threshold).any(0) for chunk in chunks])


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Return groups of (N, 5) boxes x1 y1 x2 y2 score: a kept box, then the boxes it suppressed, by falling score.

    Unlike in NMS, a box is dropped where the IoU reaches the threshold.
    """
    order = dets[:, 4].sort(0, descending=True)[1].cpu().numpy()
    zero, threshold = np.float32(0), np.float32(iou_threshold)
    groups = []
    with np.errstate(all='ignore'):
        corners = corners_of(dets[:, :4].detach().float().cpu().numpy(), zero)
        while len(order):
            rest = order[1:]
            dropped = iou_matrix(corners[:, order[:1]], corners[:, rest], zero)[0] >= threshold
            groups.append([int(order[0]), *rest[dropped].tolist()])
            order = rest[~dropped]
    return groups


NAIVE, LINEAR, GAUSSIAN = 0, 1, 2
SCORE = 5
"""Row of the table of boxes; the rows before are those of :func:`corners_of`."""


def softnms(
    boxes: Tensor,
    scores: Tensor,
    dets: Tensor,
    iou_threshold: float,
    sigma: float,
    min_score: float,
    method: int,
    offset: int,
) -> Tensor:
    """Return the indices of the remaining boxes by falling decayed score; fill ``dets`` with boxes and scores.

    Args:
        boxes: (N, 4) float32 on the CPU, x1 y1 x2 y2.
        scores: (N,).
        dets: (N, 5), filled from the top with x1 y1 x2 y2 score.
        iou_threshold: from which IoU on the linear and the naive method act.
        sigma: width of the Gaussian method.
        min_score: a box whose score falls below is dropped.
        method: :data:`NAIVE` (score to 0), :data:`LINEAR` (times 1 - IoU), :data:`GAUSSIAN` (times exp(-IoU^2/sigma)).
        offset: 0, or 1 for boxes whose x2 and y2 are the last pixel inside.
    """
    one, floor = np.float32(offset), np.float32(min_score)
    with np.errstate(all='ignore'):
        corners = corners_of(boxes.detach().numpy(), one)
        table = np.concatenate([corners, scores.detach().float().numpy()[None]])
        index = np.arange(table.shape[1])
        at, count = 0, len(index)
        while at < count:
            best = at + _first_best(table[SCORE, at:count])
            table[:, [at, best]] = table[:, [best, at]]
            index[[at, best]] = index[[best, at]]
            rest = table[:, at + 1 : count]
            iou = iou_matrix(table[:, at : at + 1], rest, one)[0]
            rest[SCORE] *= _decay(iou, np.float32(iou_threshold), np.float32(sigma), method)
            at += 1
            count = at + _fill_holes(rest, index[at:count], ~(rest[SCORE] < floor))
    dets[:count] = torch.from_numpy(table[[0, 1, 2, 3, SCORE], :count].T).to(dets)
    return torch.from_numpy(index[:count])


def _first_best(scores: np.ndarray) -> int:
    """Return the index of the largest score; NaN (the Gaussian of 0 / 0) compares as neither larger nor smaller."""
    return 0 if np.isnan(scores[0]) else int(np.nanargmax(scores))


def _decay(iou: np.ndarray, threshold: np.float32, sigma: np.float32, method: int) -> np.ndarray:
    one = np.float32(1)
    if method == GAUSSIAN:
        # Rounded from float64 it is the C library's float32 exponential; NumPy's own differs in the last bit.
        return np.exp((-(iou * iou) / sigma).astype(np.float64)).astype(np.float32)
    return np.where(iou >= threshold, one - iou if method == LINEAR else np.float32(0), one)


def _fill_holes(table: np.ndarray, index: np.ndarray, good: np.ndarray) -> int:
    """Move the good columns to the front, in place, as one-by-one replacement by the last would.

    Returns:
        The number of good columns.
    """
    count = np.count_nonzero(good)
    holes = np.flatnonzero(~good[:count])
    movers = np.flatnonzero(good[count:])[::-1] + count
    table[:, holes] = table[:, movers]
    index[holes] = index[movers]
    return count
