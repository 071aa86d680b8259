"""Soft-NMS (Bodla et al., arXiv 1704.04503): boxes near a better one lose score instead of their life.

The compiled op sorts by selection and drops boxes by moving the last one into their place; which of two boxes with
equal scores comes first depends on those moves, so they are followed here, a whole row of boxes at a time.
"""

import numpy as np
import torch
from torch import Tensor

from .corners import Corners, iou_matrix

NAIVE, LINEAR, GAUSSIAN = 0, 1, 2
SCORE = 5
"""Row of the table of boxes; the rows before are those of Corners."""


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
    """Indices of the boxes left, by falling decayed score; their boxes and decayed scores go to ``dets``.

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
        corners = Corners.of(boxes.detach().numpy(), one)
        table = np.stack([*corners, scores.detach().float().numpy()])
        index = np.arange(table.shape[1])
        at, count = 0, len(index)
        while at < count:
            best = at + _first_best(table[SCORE, at:count])
            table[:, [at, best]] = table[:, [best, at]]
            index[[at, best]] = index[[best, at]]
            rest = table[:, at + 1 : count]
            iou = iou_matrix(Corners(*table[:SCORE, at : at + 1]), Corners(*rest[:SCORE]), one)[0]
            rest[SCORE] *= _decay(iou, np.float32(iou_threshold), np.float32(sigma), method)
            at += 1
            count = at + _fill_holes(rest, index[at:count], ~(rest[SCORE] < floor))
    dets[:count] = torch.from_numpy(table[[0, 1, 2, 3, SCORE], :count].T).to(dets)
    return torch.from_numpy(index[:count])


def _first_best(scores: np.ndarray) -> int:
    """Place of the largest score; NaN (the Gaussian of 0 / 0) is neither passed by a score nor passes one."""
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
