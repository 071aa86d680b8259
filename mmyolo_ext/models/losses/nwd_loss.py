"""1 - NWD: a distance of boxes that falls off with pixels, not with overlap (arXiv 2110.13389)."""

import torch
from torch import Tensor, nn

from mmyolo_ext.boxes import at_least_float32, xyxy_to_cxcywh
from mmyolo_ext.models.losses.host_call import check_reduction
from mmyolo_ext.models.losses.iou_loss import reduce_boxes
from mmyolo_ext.registry import MODELS

# the square of a distance, in units of the boxes, below which they count as the same: the root has no slope at 0
LEAST_SQUARE = 1e-8


def paired_nwd(boxes_xyxy: Tensor, targets_xyxy: Tensor, scale: float) -> Tensor:
    """Normalised Wasserstein distance of boxes taken as normal distributions, eq. 7-9 of the paper.

    A box is the normal distribution of mean (x, y) and standard deviations (w/2, h/2). The 2-Wasserstein distance W of
    two is the Euclidean distance of their (x, y, w/2, h/2); NWD = exp(-W / ``scale``).

    Args:
        boxes_xyxy: (..., 4); half precision is raised to float32.
        targets_xyxy: (..., 4), in the same units.
        scale: in the same units.

    Returns:
        (...): in (0, 1], 1 for equal boxes.

    >>> paired_nwd(torch.tensor([0.0, 0, 4, 4]), torch.tensor([3.0, 4, 7, 8]), scale=5.0)
    tensor(0.3679)
    """
    offset = xyxy_to_cxcywh(at_least_float32(boxes_xyxy)) - xyxy_to_cxcywh(at_least_float32(targets_xyxy))
    center, size = offset.split(2, dim=-1)
    square = center.square().sum(-1) + (size / 2).square().sum(-1)
    return torch.exp(-square.clamp(min=LEAST_SQUARE).sqrt() / scale)


@MODELS.register_module()
class NWDLoss(nn.Module):
    """1 - NWD of paired boxes: smooth for tiny boxes, where one pixel changes the IoU from 1 to 0.

    Often added to an IoU loss: ``loss_bbox=[dict(type='mmyolo_ext.IoULoss', loss_weight=0.025),
    dict(type='mmyolo_ext.NWDLoss', loss_weight=0.025)]``.

    Args:
        scale: C of the paper, px: the mean size of the data set's objects is its choice, 12.8 that of AI-TOD.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: gain on the result.

    Raises:
        ValueError: ``scale`` not above 0, or unknown ``reduction``.
    """

    wants = ('stride',)
    log_name = 'loss_nwd'

    def __init__(self, scale: float = 12.8, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        check_reduction(reduction)
        if not scale > 0:
            raise ValueError(f'scale must be above 0, got {scale}')
        self.scale = scale
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        stride: float = 1,
    ) -> Tensor:
        """Loss of G boxes against G targets, as :meth:`.IoULoss.forward`.

        Args:
            pred: (G, 4) xyxy.
            target: (G, 4) xyxy, in the same units.
            weight: (G,) or (G, 4).
            avg_factor: divisor in place of G.
            reduction_override: takes the place of ``reduction`` for this call.
            stride: px of one unit of the boxes: heads of ours tell it; a head of mmdet that decodes to units of the
                stride (as GFL's) does not, so ``scale`` is in its units there.
        """
        loss = 1 - paired_nwd(pred, target, self.scale / stride)
        return self.loss_weight * reduce_boxes(loss, weight, reduction_override or self.reduction, avg_factor)
