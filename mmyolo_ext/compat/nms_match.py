"""NMS that also tells for which box each dropped one was dropped (used by PISA)."""

import numpy as np
from torch import Tensor

from .corners import Corners, iou_matrix


def nms_match(dets: Tensor, iou_threshold: float) -> list[list[int]]:
    """Groups of (N, 5) boxes x1 y1 x2 y2 score: a kept box, then those dropped for it, all by falling score.

    Unlike in NMS, a box is dropped where the IoU reaches the threshold.
    """
    order = dets[:, 4].sort(0, descending=True)[1].cpu().numpy()
    zero, threshold = np.float32(0), np.float32(iou_threshold)
    groups = []
    with np.errstate(all='ignore'):
        corners = Corners.of(dets[:, :4].detach().float().cpu().numpy(), zero)
        while len(order):
            rest = order[1:]
            dropped = iou_matrix(corners.take(order[:1]), corners.take(rest), zero)[0] >= threshold
            groups.append([int(order[0]), *rest[dropped].tolist()])
            order = rest[~dropped]
    return groups
