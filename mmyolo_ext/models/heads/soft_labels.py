"""Soft labels: for each box, how much of it is of which class, in the place of one label.

Letters: G boxes of the batch, C classes.
"""

from collections.abc import Sequence

import torch
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.models.heads.class_targets import class_shares

FIELD = 'soft_labels'
# what the shares of a row may miss 1 by: three decimals in an annotation file
SUM_TOLERANCE = 2e-3


def has_soft_labels(batch_instances: Sequence[InstanceData]) -> bool:
    """Whether any picture has the field ``soft_labels``."""
    return any(FIELD in instances for instances in batch_instances)


def collect_soft_labels(
    batch_instances: Sequence[InstanceData], labels: Tensor, num_classes: int, use_sigmoid: bool
) -> Tensor:
    """The soft labels of all pictures of a batch; a picture without them counts with its labels, as rows of 0 and 1.

    Args:
        batch_instances: of each picture.
        labels: (G,) long, of all pictures in order.
        num_classes: C.
        use_sigmoid: whether a box may have several classes; else the shares of a row must sum to 1.

    Returns:
        (G, C) float32 on the device of ``labels``.

    Raises:
        ValueError: soft labels of another shape, shares out of [0, 1] or rows that do not sum to 1.
    """
    per_image = labels.split([len(instances) for instances in batch_instances])
    rows = [_rows(*pair, num_classes) for pair in zip(batch_instances, per_image, strict=True)]
    soft_labels = torch.cat(rows)
    _check_shares(soft_labels, use_sigmoid)
    return soft_labels


def _rows(instances: InstanceData, labels: Tensor, num_classes: int) -> Tensor:
    if FIELD not in instances:
        return class_shares(labels, num_classes)
    soft_labels = torch.as_tensor(instances[FIELD])
    if not soft_labels.is_floating_point() or soft_labels.dim() != 2 or soft_labels.shape[1] != num_classes:
        raise ValueError(
            f'gt_instances.{FIELD} must be floats of shape (boxes, {num_classes}), a share for each class of the '
            f'head, got {soft_labels.dtype} of shape {tuple(soft_labels.shape)}'
        )
    return soft_labels.to(device=labels.device, dtype=torch.float32)


def _check_shares(soft_labels: Tensor, use_sigmoid: bool) -> None:
    in_range = ((soft_labels >= 0) & (soft_labels <= 1)).all(1)  # false for NaN too
    if use_sigmoid:
        fault, rule = ~in_range, 'in [0, 1]'
    else:
        fault = ~in_range | ((soft_labels.sum(1) - 1).abs() > SUM_TOLERANCE)
        rule = 'in [0, 1] and sum to 1, since a softmax loss_cls makes the classes exclusive'
    if fault.any():
        row = soft_labels[fault][0].tolist()
        raise ValueError(f'the shares of each box in gt_instances.{FIELD} must be {rule}; got {row}')
