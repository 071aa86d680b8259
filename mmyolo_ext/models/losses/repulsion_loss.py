"""Repulsion loss: push a predicted box away from other objects of its image and from their predicted boxes.

RepGT and RepBox of Repulsion Loss (arXiv 1711.07752, eq. 3-6), for one-stage heads as in YOLO-FaceV2 (arXiv
2208.02019). Letters: P positives, G boxes of the batch.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmyolo_ext.boxes import at_least_float32, paired_iou
from mmyolo_ext.models.losses.utils import MeanOverRanks
from mmyolo_ext.registry import MODELS


class Crowd(NamedTuple):
    """The objects around each positive.

    Attributes:
        image: (P,) long, the image of each positive.
        gt: (P,) long, its ground-truth box, an index into the next two.
        gt_image: (G,) long, the image of each ground-truth box.
        gt_xyxy: (G, 4) all ground-truth boxes of the batch, in the units of the predictions.
    """

    image: Tensor
    gt: Tensor
    gt_image: Tensor
    gt_xyxy: Tensor


def smooth_ln(overlap: Tensor, sigma: float) -> Tensor:
    """Return -ln(1 - x) up to ``sigma``, from there its tangent: any shape, x in [0, 1], 0 <= ``sigma`` < 1.

    >>> smooth_ln(torch.tensor([0.0, 0.5, 1.0]), 0.5)
    tensor([0.0000, 0.6931, 1.6931])
    """
    # the unused branch must have a finite slope too
    curve = -torch.log1p(-overlap.clamp(max=sigma))
    return curve + F.relu(overlap - sigma) / (1 - sigma)


@MODELS.register_module()
class RepulsionLoss(nn.Module):
    """``gt_weight`` * RepGT + ``box_weight`` * RepBox; to be added to a loss that attracts.

    RepGT: for each box, smooth_ln of the covered share of the object, other than its own, that it overlaps most (IoU)
    in its image; divided by the number of positives. RepBox: mean of smooth_ln of the IoU of every two overlapping
    boxes of one image and different objects. Both are 0 without overlap.

    It needs to know which boxes share an image: use it in the heads of mmyolo_ext, mmdet's do not pass this. Memory
    grows as P * (P + G).

    Args:
        gt_weight: Gain of RepGT; 0.5 is the choice of arXiv 1711.07752.
        box_weight: Gain of RepBox.
        gt_sigma: From 0 to below 1: where smooth_ln of RepGT becomes linear; a lower value weighs outliers less.
        box_sigma: The same for RepBox.
        loss_weight: Gain of the sum.

    Raises:
        ValueError: If a number is out of range.
    """

    wants = ('crowd', 'mean_over_ranks')
    log_name = 'loss_rep'

    def __init__(
        self,
        gt_weight: float = 0.5,
        box_weight: float = 0.5,
        gt_sigma: float = 0.9,
        box_sigma: float = 0.0,
        loss_weight: float = 1.0,
    ) -> None:
        super().__init__()
        for name, sigma in (('gt_sigma', gt_sigma), ('box_sigma', box_sigma)):
            if not 0 <= sigma < 1:
                raise ValueError(f'{name} must be from 0 to below 1, got {sigma}')
        self.gt_weight = gt_weight
        self.box_weight = box_weight
        self.gt_sigma = gt_sigma
        self.box_sigma = box_sigma
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        crowd: Crowd | None = None,
        mean_over_ranks: MeanOverRanks | None = None,
    ) -> Tensor:
        """Return the loss of P boxes.

        Args:
            pred: (P, 4) xyxy.
            target: Not used, ``crowd`` has the targets.
            weight: (P,) or (P, 4); a pair weighs the product of its two weights, a box of weight 0 is left out.
            avg_factor: Divisor of RepGT, instead of P.
            crowd: The objects around each box.
            mean_over_ranks: For the number of pairs; every rank must call the loss, with boxes or without.

        Returns:
            A scalar, 0 without boxes.

        Raises:
            ValueError: If there is no ``crowd``.
        """
        if crowd is None:
            raise ValueError(
                'RepulsionLoss needs to know which boxes share an image, and this head does not pass it: use '
                'YOLOv5Head or YOLOv3Head'
            )
        boxes = at_least_float32(pred)
        if weight is None:
            weight = boxes.new_ones(len(boxes))
        else:
            weight = weight.mean(-1) if weight.dim() > 1 else weight
            crowd = _without_weightless(crowd, weight)
        box, other = nearest_others(boxes.detach(), crowd)
        covered = _covered_share(boxes[box], crowd.gt_xyxy[other])
        gt_term = (smooth_ln(covered, self.gt_sigma) * weight[box]).sum()
        gt_term = gt_term / (len(boxes) if avg_factor is None else avg_factor)

        first, second = overlapping_pairs(boxes.detach(), crowd)
        repulsion = smooth_ln(paired_iou(boxes[first], boxes[second]), self.box_sigma)
        pairs = max(len(first), 1)
        if mean_over_ranks is not None:
            pairs = mean_over_ranks(boxes.new_tensor(len(first)))
            pairs = torch.where(pairs > 0, pairs, torch.ones_like(pairs))
        box_term = (repulsion * weight[first] * weight[second]).sum() / pairs
        return self.loss_weight * (self.gt_weight * gt_term + self.box_weight * box_term)


@torch.no_grad()
def nearest_others(boxes_xyxy: Tensor, crowd: Crowd) -> tuple[Tensor, Tensor]:
    """Return the boxes that overlap an object of their image other than their own, and that of the highest IoU.

    (P, 4) -> two index tensors of one length, at most P.
    """
    overlap = paired_iou(boxes_xyxy[:, None], crowd.gt_xyxy[None])  # (P, G)
    foreign = crowd.image[:, None] != crowd.gt_image[None]
    own = crowd.gt[:, None] == torch.arange(len(crowd.gt_image), device=boxes_xyxy.device)
    overlap = overlap.masked_fill(foreign | own, 0)
    # a column of zeros, so that max works without objects
    most, other = torch.cat([overlap, overlap.new_zeros(len(overlap), 1)], dim=1).max(1)
    box = torch.nonzero(most > 0).flatten()
    return box, other[box]


@torch.no_grad()
def overlapping_pairs(boxes_xyxy: Tensor, crowd: Crowd) -> tuple[Tensor, Tensor]:
    """Return every pair of overlapping boxes of one image and different objects as two index tensors."""
    x1, y1, x2, y2 = boxes_xyxy.unbind(1)
    pairs = (crowd.image[:, None] == crowd.image) & (crowd.gt[:, None] != crowd.gt)
    for start, end in ((x1, x2), (y1, y2)):
        pairs &= (start[:, None] < end) & (start < end[:, None])
    return torch.nonzero(pairs.triu(1), as_tuple=True)


def _without_weightless(crowd: Crowd, weight: Tensor) -> Crowd:
    """Move each positive of weight 0 to an image of its own, where it meets no other."""
    nowhere = -1 - torch.arange(len(weight), device=weight.device)
    return crowd._replace(image=torch.where(weight > 0, crowd.image, nowhere))


def _covered_share(boxes_xyxy: Tensor, targets_xyxy: Tensor) -> Tensor:
    """Return the share of each target that its paired box covers: (K, 4) x 2 -> (K,) in [0, 1]."""
    start = torch.maximum(boxes_xyxy[:, :2], targets_xyxy[:, :2])
    end = torch.minimum(boxes_xyxy[:, 2:], targets_xyxy[:, 2:])
    area = (targets_xyxy[:, 2:] - targets_xyxy[:, :2]).prod(1)
    return (end - start).clamp(min=0).prod(1) / area.clamp(min=1e-7)
