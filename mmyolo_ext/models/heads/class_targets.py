"""What the class loss is taught, for classes that may coincide and for exclusive ones."""

import torch.nn.functional as F
from torch import Tensor


def class_targets(labels: Tensor, num_classes: int, smoothing: float, use_sigmoid: bool) -> Tensor:
    """Targets of either kind: see the two functions below."""
    to_targets = binary_targets if use_sigmoid else exclusive_targets
    return to_targets(labels, num_classes, smoothing)


def binary_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """One-hot rows for a loss on each class by itself: 1 - e/2 for the class of the box, e/2 for the others.

    (P,) long -> (P, C).
    """
    return F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / 2


def exclusive_targets(labels: Tensor, num_classes: int, smoothing: float = 0.0) -> Tensor:
    """Targets for a softmax over the classes: the index, or with smoothing e the mixture (1 - e) one-hot + e/C.

    (P,) long -> (P,) long, or (P, C).
    """
    if smoothing == 0:
        return labels
    return F.one_hot(labels, num_classes).float() * (1 - smoothing) + smoothing / num_classes
