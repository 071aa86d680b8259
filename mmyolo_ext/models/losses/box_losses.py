"""Losses of paired boxes: the IoU family with Wise-IoU, normalised Wasserstein distance, and sums of losses."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mmyolo_ext.boxes import IOU_MODES, at_least_float32, paired_iou, xyxy_to_cxcywh
from mmyolo_ext.models.losses.utils import MeanOverRanks, ReducedLoss, call_loss, check_loss, mean_quality
from mmyolo_ext.registry import MODELS

# of the running mean of Wise-IoU v3: after 7,000 updates 5% of the start is left, the paper's rule of thumb
MOMENTUM = 1 - 0.05 ** (1 / 7000)
# of 1 - IoU, for boxes that all fit exactly
LEAST_MEAN = 1e-7
# squared distance, in units of the boxes, below which the root of the NWD has no finite slope
LEAST_SQUARE = 1e-8


def distance_attention(boxes_xyxy: Tensor, targets_xyxy: Tensor, eps: float) -> Tensor:
    """Return exp(squared distance of the centres / squared diagonal of the hull): (..., 4) x 2 -> (...) in [1, e].

    The diagonal is detached, else a box could reduce its loss by growing.
    """
    start, end = at_least_float32(boxes_xyxy).split(2, dim=-1)
    target_start, target_end = at_least_float32(targets_xyxy).split(2, dim=-1)
    hull = (torch.maximum(end, target_end) - torch.minimum(start, target_start)).clamp(min=0).detach()
    offset = (start + end - target_start - target_end) / 2
    share = offset.square().sum(-1) / (hull.square().sum(-1) + eps)
    # above 1 only for swapped corners
    return torch.exp(share.clamp(max=1))


class WiseIoUV3(nn.Module):
    """Focus r = b / (delta alpha^(b - delta)) with b = (1 - IoU) / running mean (arXiv 2301.10051, eq. 9-11).

    r is greatest at b = 1 / ln(alpha): easy pairs and outliers (often a wrong label) count less. The running mean is
    part of the state dict and updated once per call in training, over all ranks in the heads of this package.

    Args:
        alpha: Above 1.
        delta: Above 0; r is 1 where b = delta.
        momentum: Share of a call's mean in the running one, above 0, up to 1.

    Raises:
        ValueError: If a number is out of range.
    """

    def __init__(self, alpha: float = 1.9, delta: float = 3.0, momentum: float = MOMENTUM) -> None:
        super().__init__()
        if not (alpha > 1 and delta > 0 and 0 < momentum <= 1):
            raise ValueError(
                'Wise-IoU v3 takes alpha above 1, delta above 0 and momentum in (0, 1], got '
                f'alpha={alpha}, delta={delta}, momentum={momentum}'
            )
        self.alpha = alpha
        self.delta = delta
        self.momentum = momentum
        self.register_buffer('running_mean', torch.ones(()))

    def focus(
        self, iou_loss: Tensor, weight: Tensor | None = None, mean_over_ranks: MeanOverRanks | None = None
    ) -> Tensor:
        """Return r of each pair (G,), from the mean before this call, which pairs of weight 0 do not enter."""
        outlier_degree = iou_loss / self.running_mean.clamp(min=LEAST_MEAN)
        if self.training:
            counted = None if weight is None else weight > 0
            mean = mean_quality(iou_loss, counted, mean_over_ranks, self.running_mean)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        return outlier_degree / (self.delta * self.alpha ** (outlier_degree - self.delta))


LOSS_MODES = (*IOU_MODES, 'wiou_v1', 'wiou_v3')


@MODELS.register_module()
class IoULoss(ReducedLoss):
    """1 - IoU of paired boxes, computed in float32 or better.

    Args:
        mode: ``'iou'``, ``'giou'``, ``'diou'``, ``'ciou'``, ``'eiou'``, ``'siou'``: see
            :func:`mmyolo_ext.boxes.paired_iou`; ``'wiou_v1'``: :func:`distance_attention` * (1 - IoU), Wise-IoU v1
            (arXiv 2301.10051, eq. 4-5); ``'wiou_v3'``: that times the focus of :class:`WiseIoUV3`.
        eps: Added to denominators, in squared units of the boxes.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Gain.
        power: alpha of alpha-IoU; 3 is the choice of its paper.
        focus: ``alpha``, ``delta`` and ``momentum`` of ``'wiou_v3'``.

    Raises:
        ValueError: If ``mode`` or ``reduction`` is unknown, ``power`` is not above 0, or ``focus`` is given for
            another mode.
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
        super().__init__(reduction, loss_weight)
        if mode not in LOSS_MODES:
            raise ValueError(f'mode must be one of {LOSS_MODES}, got {mode!r}')
        if not power > 0:
            raise ValueError(f'power must be above 0, got {power}')
        if focus and mode != 'wiou_v3':
            raise ValueError(f"focus is an option of mode='wiou_v3', got it with mode={mode!r}: leave it out")
        self.mode = mode
        self.eps = eps
        self.power = power
        self.wise = WiseIoUV3(**(focus or {})) if mode == 'wiou_v3' else None
        self.wants = ('mean_over_ranks',) if mode == 'wiou_v3' else ()

    def elements(
        self, pred: Tensor, target: Tensor, weight: Tensor | None, mean_over_ranks: MeanOverRanks | None = None
    ) -> Tensor:
        """Return the loss (G,) of boxes; ``mean_over_ranks`` is for ``'wiou_v3'``, which every rank must then call."""
        if self.mode in IOU_MODES:
            return 1 - paired_iou(pred, target, self.mode, self.eps, self.power)
        loss = 1 - paired_iou(pred, target, 'iou', self.eps, self.power)
        attention = distance_attention(pred, target, self.eps)
        if self.wise is not None:
            weight = weight.mean(-1) if weight is not None and weight.dim() > 1 else weight
            attention = self.wise.focus(loss.detach(), weight, mean_over_ranks) * attention
        return attention * loss


def paired_nwd(boxes_xyxy: Tensor, targets_xyxy: Tensor, scale: float) -> Tensor:
    """Return the normalised Wasserstein distance of paired boxes (arXiv 2110.13389, eq. 7-9).

    A box is the normal distribution of mean (x, y) and standard deviations (w/2, h/2). The 2-Wasserstein distance W of
    two is the Euclidean distance of their (x, y, w/2, h/2); NWD = exp(-W / ``scale``).

    Args:
        boxes_xyxy: (..., 4); raised to float32.
        targets_xyxy: (..., 4), in the same units.
        scale: In the same units.

    Returns:
        (...) in (0, 1], 1 for equal boxes.

    >>> paired_nwd(torch.tensor([0.0, 0, 4, 4]), torch.tensor([3.0, 4, 7, 8]), scale=5.0)
    tensor(0.3679)
    """
    offset = xyxy_to_cxcywh(at_least_float32(boxes_xyxy)) - xyxy_to_cxcywh(at_least_float32(targets_xyxy))
    center, size = offset.split(2, dim=-1)
    square = center.square().sum(-1) + (size / 2).square().sum(-1)
    return torch.exp(-square.clamp(min=LEAST_SQUARE).sqrt() / scale)


@MODELS.register_module()
class NWDLoss(ReducedLoss):
    """1 - NWD of paired boxes: smooth for tiny boxes, where one pixel changes the IoU from 1 to 0.

    Often added to an IoU loss: ``loss_bbox=[dict(type='mmyolo_ext.IoULoss', loss_weight=0.025),
    dict(type='mmyolo_ext.NWDLoss', loss_weight=0.025)]``.

    Args:
        scale: C of the paper in px; it takes the mean size of the objects, 12.8 for AI-TOD.
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Gain.

    Raises:
        ValueError: If ``scale`` is not above 0 or ``reduction`` is unknown.
    """

    wants = ('stride',)
    log_name = 'loss_nwd'

    def __init__(self, scale: float = 12.8, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__(reduction, loss_weight)
        if not scale > 0:
            raise ValueError(f'scale must be above 0, got {scale}')
        self.scale = scale

    def elements(self, pred: Tensor, target: Tensor, weight: Tensor | None, stride: float = 1) -> Tensor:
        """Return the loss (G,) of boxes; ``stride`` is the number of pixels of one of their units.

        mmdet's heads do not pass it, so in those that decode to units of the stride (GFL) ``scale`` is in these units.
        """
        return 1 - paired_nwd(pred, target, self.scale / stride)


@MODELS.register_module()
class SumLoss(nn.Module):
    """The sum of box losses, each with its own gain.

    ``YOLOv5Head`` accepts a list as its ``loss_bbox`` and logs every term; in a head of mmdet, which has one box loss,
    use this class.

    Args:
        losses: Configs. The attribute ``log_name`` of a loss is its name in the log, ``loss_bbox`` by default;
            repeated names are numbered.

    Raises:
        ValueError: If ``losses`` is empty or one of them cannot be called as a loss.
    """

    def __init__(self, losses: Sequence[dict]) -> None:
        super().__init__()
        if not losses:
            raise ValueError('losses must have the config of at least one loss, got none')
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)
        for loss in self.losses:
            check_loss('loss_bbox', loss)
        names = [getattr(loss, 'log_name', 'loss_bbox') for loss in self.losses]
        counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
        self.names = tuple(name if n == 1 else f'{name}_{n}' for name, n in zip(names, counts, strict=True))
        self.wants = tuple({name for loss in self.losses for name in getattr(loss, 'wants', ())})

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, **kwargs: Any) -> Tensor:
        """Return the sum; ``kwargs`` as in :func:`.utils.call_loss`."""
        return sum(call_loss(loss, pred, target, weight, **kwargs) for loss in self.losses)
