"""What the class loss is taught, for classes that may coincide and for exclusive ones.

Letters: P positives, C classes.
"""

import torch.nn.functional as F
from torch import Tensor


def class_targets(labels: Tensor, num_classes: int, smoothing: float, use_sigmoid: bool) -> Tensor:
    """Targets of either kind: see the two functions below."""
    to_targets = binary_targets if use_sigmoid else exclusive_targets
    return to_targets(labels, num_classes, smoothing)


def binary_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets for a loss on each class by itself: the share of the class, pulled towards 1/2 by smoothing e.

    1 - e/2 for the class of the box and e/2 for the others; of a soft label q, (1 - e) q + e/2.

    (P,) long, or (P, C) soft -> (P, C).
    """
    return class_shares(labels, num_classes) * (1 - smoothing) + smoothing / 2


def exclusive_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets for a softmax over the classes: the index, or with smoothing e the mixture (1 - e) one-hot + e/C.

    A soft label stands in the place of the one-hot row; rows that sum to 1 do so after smoothing.

    (P,) long, or (P, C) soft -> (P,) long, or (P, C).
    """
    if smoothing == 0:
        return labels
    return class_shares(labels, num_classes) * (1 - smoothing) + smoothing / num_classes


def class_shares(labels: Tensor, num_classes: int) -> Tensor:
    """One-hot rows of class indices; soft labels, which are rows already, as they are. (P,) or (P, C) -> (P, C)."""
    return labels if labels.dim() == 2 else F.one_hot(labels, num_classes).float()
