"""1 - IoU as a box loss, for the whole paired-IoU family."""

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmyolo_ext.boxes import check_iou_mode, paired_iou
from mmyolo_ext.registry import MODELS

REDUCTIONS = ('none', 'mean', 'sum')


@MODELS.register_module()
class IoULoss(nn.Module):
    """1 - IoU of paired boxes, always computed in float32 or better.

    Args:
        mode: ``'iou'``, ``'giou'``, ``'diou'`` or ``'ciou'``, see :func:`mmyolo_ext.boxes.paired_iou`.
        eps: floor of the denominators, in squared units of the boxes.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: gain on the result.

    Raises:
        ValueError: unknown ``mode`` or ``reduction``.
    """

    def __init__(
        self, mode: str = 'ciou', eps: float = 1e-7, reduction: str = 'mean', loss_weight: float = 1.0
    ) -> None:
        super().__init__()
        check_iou_mode(mode)
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
        self.mode = mode
        self.eps = eps
        self.reduction = reduction
        self.loss_weight = loss_weight

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
    ) -> Tensor:
        """Loss of G boxes against G targets.

        Args:
            pred: (G, 4) xyxy.
            target: (G, 4) xyxy, in the same units.
            weight: (G,), or (G, 4) as mmdet's heads give it, of which the mean over the coordinates is taken.
            avg_factor: divisor in place of G.
            reduction_override: takes the place of ``reduction`` for this call.

        Returns:
            A scalar, or (G,) without reduction. No boxes give NaN under a plain mean, 0 with an ``avg_factor``.
        """
        loss = 1 - paired_iou(pred, target, self.mode, self.eps)
        if weight is not None and weight.dim() > 1:
            weight = weight.mean(-1)
        return self.loss_weight * weight_reduce_loss(loss, weight, reduction_override or self.reduction, avg_factor)
