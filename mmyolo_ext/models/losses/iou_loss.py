"""1 - IoU as a box loss, for the whole paired-IoU family."""

from collections.abc import Callable

from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

from mmyolo_ext.boxes import IOU_MODES, check_iou_mode, paired_iou
from mmyolo_ext.models.losses.class_target import MeanOverRanks
from mmyolo_ext.models.losses.host_call import check_reduction
from mmyolo_ext.models.losses.wise_iou import WiseIoUV1, WiseIoUV3
from mmyolo_ext.registry import MODELS

WISE_MODES: dict[str, Callable[..., nn.Module]] = {'wiou_v1': WiseIoUV1, 'wiou_v3': WiseIoUV3}
LOSS_MODES = (*IOU_MODES, *WISE_MODES)


@MODELS.register_module()
class IoULoss(nn.Module):
    """1 - IoU of paired boxes, always computed in float32 or better.

    Args:
        mode: ``'iou'``, ``'giou'``, ``'diou'``, ``'ciou'``, ``'eiou'``, ``'siou'``: see
            :func:`mmyolo_ext.boxes.paired_iou`; ``'wiou_v1'``, ``'wiou_v3'``: see :mod:`.wise_iou`.
        eps: floor of the denominators, in squared units of the boxes.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: gain on the result.
        power: alpha of alpha-IoU, see there; 3 is its paper's choice.
        focus: for ``'wiou_v3'`` its ``alpha``, ``delta`` and ``momentum``.

    Raises:
        ValueError: unknown ``mode`` or ``reduction``, ``power`` not above 0, or a ``focus`` for another mode.
    """

    def __init__(
        self,
        mode: str = 'ciou',
        eps: float = 1e-7,
        reduction: str = 'mean',
        loss_weight: float = 1.0,
        power: float = 1.0,
        focus: dict | None = None,
    ) -> None:
        super().__init__()
        if mode not in LOSS_MODES:
            raise ValueError(f'mode must be one of {LOSS_MODES}, got {mode!r}')
        check_iou_mode('iou', power)
        check_reduction(reduction)
        if focus and mode != 'wiou_v3':
            raise ValueError(f"focus belongs to mode='wiou_v3', got it with mode={mode!r}: leave it out")
        self.mode = mode
        self.eps = eps
        self.reduction = reduction
        self.loss_weight = loss_weight
        self.power = power
        self.wise = WISE_MODES[mode](**(focus or {})) if mode in WISE_MODES else None
        self.wants = ('mean_over_ranks',) if mode == 'wiou_v3' else ()

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        mean_over_ranks: MeanOverRanks | None = None,
    ) -> Tensor:
        """Loss of G boxes against G targets.

        Args:
            pred: (G, 4) xyxy.
            target: (G, 4) xyxy, in the same units.
            weight: (G,), or (G, 4) as mmdet's heads give it, of which the mean over the coordinates is taken.
            avg_factor: divisor in place of G.
            reduction_override: takes the place of ``reduction`` for this call.
            mean_over_ranks: for ``'wiou_v3'``; a head calls every rank's loss with it, with boxes or without.

        Returns:
            A scalar, or (G,) without reduction. No boxes give NaN under a plain mean, 0 with an ``avg_factor``.
        """
        if self.wise is None:
            loss = 1 - paired_iou(pred, target, self.mode, self.eps, self.power)
        else:
            loss = self.wise(pred, target, self.eps, self.power, box_weight(weight), mean_over_ranks)
        return self.loss_weight * reduce_boxes(loss, weight, reduction_override or self.reduction, avg_factor)


def reduce_boxes(loss: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | None) -> Tensor:
    """Weight and reduce a loss that is one number a box: arguments as those of :meth:`IoULoss.forward`."""
    return weight_reduce_loss(loss, box_weight(weight), reduction, avg_factor)


def box_weight(weight: Tensor | None) -> Tensor | None:
    """(G,) of weights that may be (G, 4), as mmdet's heads give them."""
    return weight.mean(-1) if weight is not None and weight.dim() > 1 else weight
