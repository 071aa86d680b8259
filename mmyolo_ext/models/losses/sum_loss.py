"""Several losses on the same boxes, added."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from mmyolo_ext.models.losses.host_call import required_weight, wanted
from mmyolo_ext.registry import MODELS

DEFAULT_NAME = 'loss_bbox'


@MODELS.register_module()
class SumLoss(nn.Module):
    """The sum of losses with the same call, each with its own gain.

    ``YOLOv5Head`` takes the list itself as its ``loss_bbox`` and logs every term; in a head of mmdet, which knows one
    box loss, this is that one.

    Args:
        losses: configs. A loss's attribute ``log_name`` names it in the log, ``loss_bbox`` without; a name that is
            taken gets a number.

    Raises:
        ValueError: no loss.
    """

    def __init__(self, losses: Sequence[dict]) -> None:
        super().__init__()
        if not losses:
            raise ValueError('losses must hold the config of one loss or more, got none')
        self.losses = nn.ModuleList(MODELS.build(loss) for loss in losses)
        self.names = _distinct([getattr(loss, 'log_name', DEFAULT_NAME) for loss in self.losses])
        self.wants = tuple({name for loss in self.losses for name in getattr(loss, 'wants', ())})

    def terms(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **offers: Any,
    ) -> dict[str, Tensor]:
        """Every term by the name the log shows it under; ``offers`` as in :func:`.host_call.wanted`."""
        terms = {}
        for name, loss in zip(self.names, self.losses, strict=True):
            own_weight = required_weight(loss, pred) if weight is None else weight
            more = wanted(loss, **offers)
            terms[name] = loss(
                pred, target, own_weight, avg_factor=avg_factor, reduction_override=reduction_override, **more
            )
        return terms

    def forward(
        self,
        pred: Tensor,
        target: Tensor,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **offers: Any,
    ) -> Tensor:
        """The terms' sum."""
        return sum(self.terms(pred, target, weight, avg_factor, reduction_override, **offers).values())


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """loss_bbox, loss_bbox -> loss_bbox, loss_bbox_2."""
    counts = [names[: index + 1].count(name) for index, name in enumerate(names)]
    return tuple(name if count == 1 else f'{name}_{count}' for name, count in zip(names, counts, strict=True))
