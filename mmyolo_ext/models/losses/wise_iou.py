"""Wise-IoU: 1 - IoU times factors that pass no gradient of their own making (arXiv 2301.10051).

v1 is eq. 4-5 of the paper, v3 eq. 9-11.
"""

import torch
from torch import Tensor, nn

from mmyolo_ext.boxes import at_least_float32, center_offset, hull_size, paired_iou
from mmyolo_ext.models.losses.class_target import MeanOverRanks

# after 7,000 updates 5% of the start is left, the paper's rule of thumb
MOMENTUM = 1 - 0.05 ** (1 / 7000)
# of 1 - IoU, for boxes that all fit exactly
LEAST_MEAN = 1e-7


def distance_attention(boxes_xyxy: Tensor, targets_xyxy: Tensor, eps: float) -> Tensor:
    """exp(squared distance of the centres / squared diagonal of the enclosing box): (..., 4) x 2 -> (...) in [1, e].

    The diagonal is a constant for the gradient, else a box could lessen its loss by growing.
    """
    boxes_xyxy, targets_xyxy = at_least_float32(boxes_xyxy), at_least_float32(targets_xyxy)
    diagonal2 = hull_size(boxes_xyxy, targets_xyxy).detach().square().sum(-1)
    share = center_offset(boxes_xyxy, targets_xyxy).square().sum(-1) / (diagonal2 + eps)
    # above 1 for corners the wrong way round alone
    return torch.exp(share.clamp(max=1))


class WiseIoUV1(nn.Module):
    """distance_attention * (1 - IoU)."""

    def forward(
        self,
        boxes_xyxy: Tensor,
        targets_xyxy: Tensor,
        eps: float,
        power: float,
        weight: Tensor | None = None,
        mean_over_ranks: MeanOverRanks | None = None,
    ) -> Tensor:
        """Loss of each pair, (G, 4) x 2 -> (G,), not yet weighted.

        ``eps`` and ``power`` as in :func:`mmyolo_ext.boxes.paired_iou`; pairs of ``weight`` 0, (G,), are not there.
        ``mean_over_ranks`` takes means over several processes, each of which must call this, with pairs or without.
        """
        iou_loss = 1 - paired_iou(boxes_xyxy, targets_xyxy, 'iou', eps, power)
        focus = self.focus(iou_loss.detach(), weight, mean_over_ranks)
        return focus * distance_attention(boxes_xyxy, targets_xyxy, eps) * iou_loss

    def focus(
        self, iou_loss: Tensor, weight: Tensor | None = None, mean_over_ranks: MeanOverRanks | None = None
    ) -> Tensor:
        """What each pair is further multiplied by: here 1."""
        return torch.ones_like(iou_loss)


class WiseIoUV3(WiseIoUV1):
    """v1 times r = b / (delta alpha^(b - delta)), b the pair's 1 - IoU over its running mean.

    r is greatest at b = 1 / ln(alpha): pairs better than usual and hopeless ones (often a wrong label) count less. The
    mean is part of the state dict; it is updated in training alone, once a call, by the pairs of all processes where
    the head is one of ours, else by those of its own process.

    Args:
        alpha: above 1.
        delta: above 0; where b = delta, r is 1.
        momentum: share of a call's mean in the running one, above 0, up to 1.

    Raises:
        ValueError: a number out of its range.
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
        """r of each pair, from the mean before this call."""
        outlier_degree = iou_loss / self.running_mean.clamp(min=LEAST_MEAN)
        if self.training and (len(iou_loss) or mean_over_ranks is not None):
            mean = self._mean(iou_loss, weight, mean_over_ranks)
            self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        return outlier_degree / (self.delta * self.alpha ** (outlier_degree - self.delta))

    def _mean(self, iou_loss: Tensor, weight: Tensor | None, mean_over_ranks: MeanOverRanks | None) -> Tensor:
        """Over the pairs that are there; the running one if none is."""
        if weight is None and mean_over_ranks is None:
            return iou_loss.mean()
        counted = torch.ones_like(iou_loss) if weight is None else weight > 0
        total, count = (iou_loss * counted).sum(), counted.sum()
        if mean_over_ranks is not None:
            total, count = mean_over_ranks(torch.stack([total, count.to(total)]))
        mean = total / torch.where(count > 0, count, torch.ones_like(count))
        return torch.where(count > 0, mean, self.running_mean.to(mean))
