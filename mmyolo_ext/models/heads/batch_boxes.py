"""The boxes of a batch in one tensor, and where their positives lie.

Letters: N images, A anchors of a level, G boxes of the batch, P positives.
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
    boxes_xyxy = torch.cat([nothing, *per_image]).to(device=like.device, dtype=torch.float32)
    image = torch.tensor([index for index, boxes in enumerate(per_image) for _ in range(len(boxes))], dtype=torch.long)
    # the host knows the numbers of boxes, and need not wait until the device has them
    return BatchBoxes(boxes_xyxy, image.to(like.device, non_blocking=True))


def collect_labels(batch_instances: Sequence[InstanceData], like: Tensor) -> Tensor:
    """Labels in the order of :func:`collect_boxes`: (G,) long on the device of ``like``."""
    return torch.cat([item.labels for item in batch_instances]).to(device=like.device, dtype=torch.long)


def flat_index(positives: Positives, shape: Sequence[int]) -> Tensor:
    """The places of positives in a flattened tensor of ``shape`` (N, A, H, W): (P,)."""
    _, num_anchors, height, width = shape
    return ((positives.image * num_anchors + positives.anchor) * height + positives.cell_y) * width + positives.cell_x
