"""How well priors fit boxes, under the rule by which a head matches them.

Letters: G boxes, K priors of all levels.
"""

from typing import NamedTuple

import numpy as np


class Rule(NamedTuple):
    """When a box and a prior match: if their resemblance is above ``threshold``.

    Attributes:
        kind: ``'ratio'``: the resemblance is min(w/w_a, w_a/w, h/h_a, h_a/h), one over YOLOv5's greatest ratio of
            sides; ``'iou'``: the IoU of the two laid on one corner, as YOLOv3 matches. Both are 1 for equal sizes.
        threshold: from 0 to 1.
    """

    kind: str = 'ratio'
    threshold: float = 1 / 4.0

    def __str__(self) -> str:
        """In words."""
        if self.kind == 'ratio':
            return f'a prior matches a box if no side is {1 / self.threshold:g} times the other or more'
        return f'a prior matches a box if the IoU of their sizes is above {self.threshold:g}'

    def resemblance(self, boxes_wh: np.ndarray, anchors_wh: np.ndarray) -> np.ndarray:
        """Of sizes (G, 2) and (K, 2), all positive: (G, K), above 0 to 1."""
        smaller = np.minimum(boxes_wh[:, None], anchors_wh[None])
        if self.kind == 'ratio':
            return (smaller / np.maximum(boxes_wh[:, None], anchors_wh[None])).min(-1)
        overlap = smaller.prod(-1)
        return overlap / (boxes_wh.prod(-1)[:, None] + anchors_wh.prod(-1)[None] - overlap)


class Scores(NamedTuple):
    """What priors are worth to the boxes.

    Attributes:
        recall: share of the boxes that match a prior at all; the others teach nothing (best possible recall).
        fitness: mean over the boxes of the greatest resemblance, 0 where nothing matches.
        matches: mean number of priors that match a box.
    """

    recall: float
    fitness: float
    matches: float


def score(boxes_wh: np.ndarray, anchors_wh: np.ndarray, rule: Rule) -> Scores:
    """Of sizes (G, 2) and (K, 2); G must be 1 or more."""
    found = rule.resemblance(boxes_wh, anchors_wh)
    best = found.max(1)
    fitness = np.where(best > rule.threshold, best, 0.0).mean()
    return Scores(float((best > rule.threshold).mean()), float(fitness), float((found > rule.threshold).sum(1).mean()))
