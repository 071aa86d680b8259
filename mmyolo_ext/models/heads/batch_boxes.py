"""The boxes of a batch in one tensor, and the network's numbers at their positives.

Letters: N images, A priors of a level, G boxes of the batch, P positives, D numbers a prior predicts.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from mmdet.structures.bbox import get_box_tensor
from mmengine.structures import InstanceData
from torch import Tensor

from mmyolo_ext.models.task_modules import Positives


class BatchBoxes(NamedTuple):
    """Boxes of all pictures of a batch, (G, 4) px of the network input, and the picture of each, (G,) long."""

    boxes_xyxy: Tensor
    image: Tensor


def collect_boxes(batch_instances: Sequence[InstanceData | None], like: Tensor) -> BatchBoxes:
    """Put the boxes of every picture in one tensor on the device of ``like``; None is a picture without boxes."""
    nothing = torch.zeros(0, 4, device=like.device)
    per_image = [nothing if item is None else get_box_tensor(item.bboxes) for item in batch_instances]
    counts = torch.tensor([len(boxes) for boxes in per_image], dtype=torch.long, device=like.device)
    boxes_xyxy = torch.cat([nothing, *per_image]).to(device=like.device, dtype=torch.float32)
    return BatchBoxes(boxes_xyxy, torch.repeat_interleave(counts))


def collect_labels(batch_instances: Sequence[InstanceData], like: Tensor) -> Tensor:
    """Labels in the order of :func:`collect_boxes`: (G,) long on the device of ``like``."""
    return torch.cat([item.labels for item in batch_instances]).to(device=like.device, dtype=torch.long)


def at_positives(pred: Tensor, positives: Positives, num_priors: int) -> Tensor:
    """What the network says at the positives.

    Gathered by whole rows: the gradient of ``index_select`` adds them up in a fixed order on the CPU, where that of
    indexing by several tensors depends on the threads, and a resumed run must repeat the last bit.

    Args:
        pred: (N, A*D, H, W), anchor-major.
        positives: P of them.
        num_priors: A.

    Returns:
        (P, D) float32.
    """
    # (N, A*D, H, W) -> (N, A, H, W, D)
    rows = pred.unflatten(1, (num_priors, -1)).permute(0, 1, 3, 4, 2)
    return rows.flatten(0, 3).index_select(0, flat_index(positives, rows.shape[:4])).float()


def flat_index(positives: Positives, shape: Sequence[int]) -> Tensor:
    """The places of positives in a flattened tensor of ``shape`` (N, A, H, W): (P,)."""
    _, num_priors, height, width = shape
    return ((positives.image * num_priors + positives.prior) * height + positives.cell_y) * width + positives.cell_x
