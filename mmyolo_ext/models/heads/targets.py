"""The targets of the losses: boxes, class labels, objectness, and the predictions that ignore regions mask out.

Letters: N images, A anchors of a level, C classes, G boxes of the batch, P positives of a level, K ignore regions.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from mmdet.structures.bbox import bbox_overlaps
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.boxes import cxcywh_to_xyxy
from mmyolo_ext.models.task_modules import Positives

# tolerance of the sum of a soft label: annotation files have three decimals
SUM_TOLERANCE = 2e-3


def collect_boxes(batch_instances: Sequence[InstanceData | None], device: torch.device) -> InstanceData:
    """Return ``bboxes`` (G, 4) float32 and ``image`` (G,) long of all boxes; None is an image without boxes."""
    nothing = torch.zeros(0, 4, device=device)
    # mmdet's box classes have a tensor
    per_image = [nothing if x is None else getattr(x.bboxes, 'tensor', x.bboxes) for x in batch_instances]
    boxes_xyxy = torch.cat([nothing, *per_image]).to(device=device, dtype=torch.float32)
    image = torch.tensor([index for index, boxes in enumerate(per_image) for _ in range(len(boxes))], dtype=torch.long)
    # the host knows the numbers of boxes, and need not wait for the device
    return InstanceData(bboxes=boxes_xyxy, image=image.to(device, non_blocking=True))


def collect_soft_labels(
    batch_instances: Sequence[InstanceData], labels: Tensor, num_classes: int, use_sigmoid: bool
) -> Tensor:
    """Return the field ``soft_labels`` of all images; one-hot rows of their labels for images without it.

    Args:
        batch_instances: Of each image.
        labels: (G,) long, of all images in order.
        num_classes: C.
        use_sigmoid: Whether a box may have several classes; else the probabilities of a box must sum to 1.

    Returns:
        (G, C) float32 on the device of ``labels``.

    Raises:
        ValueError: If soft labels are not in [0, 1] or do not sum to 1.
    """
    rows = []
    for instances, own in zip(batch_instances, labels.split([len(item) for item in batch_instances]), strict=True):
        if 'soft_labels' not in instances:
            rows.append(F.one_hot(own, num_classes).float())
            continue
        rows.append(torch.as_tensor(instances.soft_labels).to(device=labels.device, dtype=torch.float32))
    soft_labels = torch.cat(rows)
    fault = ~((soft_labels >= 0) & (soft_labels <= 1)).all(1)  # true for NaN too
    rule = 'in [0, 1]'
    if not use_sigmoid:
        fault |= (soft_labels.sum(1) - 1).abs() > SUM_TOLERANCE
        rule = 'in [0, 1] and sum to 1, since a softmax loss_cls makes the classes exclusive'
    if fault.any():
        row = soft_labels[fault][0].tolist()
        raise ValueError(f'the probabilities of each box in gt_instances.soft_labels must be {rule}; got {row}')
    return soft_labels


def class_targets(labels: Tensor, num_classes: int, smoothing: float, use_sigmoid: bool) -> Tensor:
    """Return the targets of the class loss, with label smoothing e.

    With a sigmoid (1 - e) q + e/2: 1 - e/2 for the class of the box and e/2 for the others. With a softmax the class
    index, or (1 - e) q + e/C. q is the one-hot row of a label, or a soft label.

    (P,) long, or (P, C) soft -> (P, C); for a softmax without smoothing as given.
    """
    if not use_sigmoid and smoothing == 0:
        return labels
    shares = labels if labels.dim() == 2 else F.one_hot(labels, num_classes).float()
    return shares * (1 - smoothing) + smoothing / (2 if use_sigmoid else num_classes)


def objectness_targets(positives: Positives, values: Tensor, shape: tuple[int, int, int, int]) -> Tensor:
    """Return 0, and at the positives their values (P,), not negative, the highest where several share a prediction.

    So the target does not depend on the order in which a device writes.

    Returns:
        Tensor of ``shape`` (N, A, H, W).
    """
    if positives.valid is not None:
        values = values * positives.valid
    _, num_anchors, height, width = shape
    row = (positives.image * num_anchors + positives.anchor) * height + positives.cell_y
    background = values.new_zeros(shape).flatten()
    return background.scatter_reduce(0, row * width + positives.cell_x, values, reduce='amax').view(shape)


def outside_ignore_regions(
    regions: InstanceData,
    positives: Positives,
    anchors_wh: Tensor,
    stride: int,
    shape: tuple[int, int, int, int],
    iof_thr: float,
) -> Tensor:
    """Return which predictions of a level have an objectness loss: positives, and anchors outside ignore regions.

    Args:
        regions: ``bboxes`` (K, 4) px and ``image`` (K,) of the ignore regions.
        positives: Of the level.
        anchors_wh: (A, 2) px.
        stride: px.
        shape: (N, A, H, W).
        iof_thr: An anchor is ignored if a region of its image covers this share of its area.

    Returns:
        Bool tensor of ``shape``.
    """
    rows, columns = ((torch.arange(size, device=anchors_wh.device) + 0.5) * stride for size in shape[2:])
    center_y, center_x = torch.meshgrid(rows, columns, indexing='ij')
    center = torch.stack([center_x, center_y], dim=-1).expand(len(anchors_wh), -1, -1, -1)  # (A, H, W, 2)
    anchors = cxcywh_to_xyxy(torch.cat([center, anchors_wh[:, None, None].expand_as(center)], dim=-1))
    covered = bbox_overlaps(anchors.flatten(0, 2), regions.bboxes, mode='iof') >= iof_thr  # (A*H*W, K)
    hits = anchors.new_zeros(shape[0], len(covered)).index_add(0, regions.image, covered.T.float())
    is_positive = objectness_targets(positives, anchors.new_ones(len(positives)), shape) > 0
    return (hits.view(shape) == 0) | is_positive
