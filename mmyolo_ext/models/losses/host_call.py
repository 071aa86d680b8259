"""mmdet's loss call, and what may go with it.

``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)`` is what every loss of mmdet and of ours
understands. A loss that can use more names it in its attribute ``wants``; a head of ours that knows it hands it over
by that name, and a head of mmdet does not.
"""

import inspect
from functools import cache
from typing import Any

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

REDUCTIONS = ('none', 'mean', 'sum')


def check_reduction(reduction: str) -> None:
    """Raise ValueError unless ``reduction`` is one of ``REDUCTIONS``."""
    if reduction not in REDUCTIONS:
        raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')


def wanted(part: Any, **offers: Any) -> dict[str, Any]:
    """Of what is offered, that which a part (a loss, an assigner) names in its attribute ``wants``."""
    wants = getattr(part, 'wants', ())
    return {name: offer for name, offer in offers.items() if name in wants}


def required_weight(loss: nn.Module, pred: Tensor) -> Tensor | None:
    """Ones for a loss that insists on weights, as mmdet's GHM does."""
    return torch.ones_like(pred) if _insists_on_weight(type(loss)) else None


@cache
def _insists_on_weight(kind: type[nn.Module]) -> bool:
    # self, pred, target, weight; remembered, for it is asked at every level of every step
    return list(inspect.signature(kind.forward).parameters.values())[3].default is inspect.Parameter.empty


def call_loss(
    loss: nn.Module,
    pred: Tensor,
    target: Any,
    offers: dict[str, Any],
    weight: Tensor | None = None,
    **reduction: Any,
) -> Tensor:
    """Call a loss of mmdet or of ours.

    Args:
        loss: any with mmdet's call.
        pred: as the loss takes it.
        target: likewise.
        offers: what else the caller knows, by name; the loss gets what it wants of it.
        weight: likewise; None for none.
        **reduction: ``avg_factor`` or ``reduction_override``.
    """
    weight = required_weight(loss, pred) if weight is None else weight
    return loss(pred, target, weight, **reduction, **wanted(loss, **offers))


def reduce_elements(elements: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | None) -> Tensor:
    """Weight a loss's elements and reduce them.

    Args:
        elements: (N, C), or any shape.
        weight: one per element, or one per sample (N,), or one per element in a row (N*C,).
        reduction: one of ``REDUCTIONS``.
        avg_factor: divisor of a mean in place of the number of elements.
    """
    if weight is not None and weight.dim() < elements.dim():
        per_sample = weight.numel() == len(elements)
        weight = weight.view(-1, *[1] * (elements.dim() - 1)) if per_sample else weight.view_as(elements)
    return weight_reduce_loss(elements, weight, reduction, avg_factor)
