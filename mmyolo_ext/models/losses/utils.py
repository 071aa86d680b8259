"""Calling, weighting and reducing losses.

Losses keep mmdet's call ``loss(pred, target, weight=None, avg_factor=None, reduction_override=None)``. A loss that can
use more names it in its attribute ``wants``; the heads of this package pass these keyword arguments:

- ``stride``: Pixels of one unit of the boxes (box losses).
- ``crowd``: A :class:`.repulsion_loss.Crowd`, the other objects of each image (box losses).
- ``quality``: A :class:`Quality`, how well the predicted boxes fit (class and objectness losses).
- ``mean_over_ranks``: :func:`mmyolo_ext.models.over_ranks.mean_over_ranks`, or None in a single process (box losses).
"""

import inspect
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import torch
from mmdet.models.losses.utils import weight_reduce_loss
from torch import Tensor, nn

LOSS_CALL = 'loss(pred, target, weight=None, avg_factor=None, reduction_override=None)'
REDUCTIONS = ('none', 'mean', 'sum')
# mean quality of a level without positives
UNKNOWN_MEAN = 0.5

MeanOverRanks = Callable[[Tensor], Tensor]


class Quality(NamedTuple):
    """How well the boxes of N samples fit.

    Attributes:
        values: (N,) in [0, 1], 0 for background; None if the head does not provide it.
        mean: Scalar, over the objects among the samples.
    """

    values: Tensor | None
    mean: Tensor


def mean_quality(
    values: Tensor,
    mask: Tensor | None = None,
    mean_over_ranks: MeanOverRanks | None = None,
    default: float | Tensor = UNKNOWN_MEAN,
) -> Tensor:
    """Return the mean of (N,) values where ``mask`` holds, over all ranks if asked; ``default`` if there are none."""
    if mask is None and mean_over_ranks is None and len(values):
        return values.mean()
    mask = torch.ones_like(values) if mask is None else mask
    # no branch on the count, which would wait for a GPU
    total, count = (values.float() * mask).sum(), mask.sum()
    if mean_over_ranks is not None:
        total, count = mean_over_ranks(torch.stack([total, count.float()]))
    mean = total / torch.where(count > 0, count, torch.ones_like(count))
    return torch.where(count > 0, mean, default)


def check_loss(name: str, loss: nn.Module) -> None:
    """Check that ``loss`` can be called with predictions and targets.

    Raises:
        ValueError: If its ``forward`` requires other arguments.
    """
    signature = inspect.signature(type(loss).forward)
    wants = dict.fromkeys(getattr(loss, 'wants', ()))
    try:
        # self, pred, target, and the weights if they are required
        weights = (None,) if _loss_arguments(type(loss))[1] else ()
        signature.bind(None, None, None, *weights, **wants)
    except TypeError as error:
        raise ValueError(
            f'{name}={type(loss).__name__} must be callable as {LOSS_CALL}, where all after target is optional, with '
            f'the keywords that its `wants` names, {tuple(wants)}; its forward is {signature}: {error}'
        ) from None


def call_loss(
    loss: nn.Module,
    pred: Tensor,
    target: Any,
    weight: Tensor | None = None,
    avg_factor: float | Tensor | None = None,
    reduction_override: str | None = None,
    **offers: Any,
) -> Tensor:
    """Call a loss with those arguments that its ``forward`` accepts.

    Args:
        loss: Any loss that passes :func:`check_loss`.
        pred: Predictions.
        target: Targets.
        weight: Weights; a loss that requires weights gets ones instead of None.
        avg_factor: Divisor of the mean; elements that a loss returns in spite of it are summed and divided.
        reduction_override: Reduction of this call.
        **offers: What the caller knows besides; the loss gets what its ``wants`` names.
    """
    weighted, requires_weight, keywords = _loss_arguments(type(loss))
    if weight is None and requires_weight:
        weight = torch.ones_like(pred)
    reduction = {'avg_factor': avg_factor, 'reduction_override': reduction_override}
    wants = getattr(loss, 'wants', ())
    value = loss(
        pred,
        target,
        *((weight,) if weighted else ()),
        **{name: value for name, value in reduction.items() if name in keywords and value is not None},
        **{name: value for name, value in offers.items() if name in wants},
    )
    # a loss of the user's own may leave the mean to the caller
    return value.sum() / avg_factor if value.dim() and avg_factor is not None else value


@cache
def _loss_arguments(kind: type[nn.Module]) -> tuple[bool, bool, tuple[str, ...]]:
    """Return whether a loss takes weights, whether it requires them, and which reduction arguments it takes."""
    parameters = list(inspect.signature(kind.forward).parameters.values())
    takes_all = any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters)
    names = [parameter.name for parameter in parameters]
    keywords = tuple(name for name in ('avg_factor', 'reduction_override') if takes_all or name in names)
    # mmdet calls the third argument weight, label_weight or label_weights
    if len(parameters) < 4 or 'weight' not in names[3]:
        return False, False, keywords
    return True, parameters[3].default is inspect.Parameter.empty, keywords


def takes_weight(loss: nn.Module) -> bool:
    """Return whether a loss takes weights of its samples."""
    return _loss_arguments(type(loss))[0]


def reduce_elements(elements: Tensor, weight: Tensor | None, reduction: str, avg_factor: float | None) -> Tensor:
    """Weight the elements of a loss and reduce them.

    Args:
        elements: (N, C), or any shape; (N,) for boxes.
        weight: One per element, per sample (N,), per element in a row (N*C,), or per coordinate of boxes (N, 4).
        reduction: One of ``REDUCTIONS``.
        avg_factor: Divisor of a mean, instead of the number of elements.
    """
    if weight is not None and weight.dim() > elements.dim():
        weight = weight.mean(-1)
    elif weight is not None and weight.dim() < elements.dim():
        per_sample = weight.numel() == len(elements)
        weight = weight.view(-1, *[1] * (elements.dim() - 1)) if per_sample else weight.view_as(elements)
    return weight_reduce_loss(elements, weight, reduction, avg_factor)


class ReducedLoss(nn.Module):
    """Base class of losses that are computed element by element, then weighted and reduced.

    Args:
        reduction: ``'none'``, ``'mean'`` or ``'sum'``.
        loss_weight: Gain.

    Raises:
        ValueError: If ``reduction`` is unknown.
    """

    def __init__(self, reduction: str = 'mean', loss_weight: float = 1.0) -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f'reduction must be one of {REDUCTIONS}, got {reduction!r}')
        self.reduction = reduction
        self.loss_weight = loss_weight

    def elements(self, pred: Tensor, target: Any, weight: Tensor | None, **offers: Any) -> Tensor:
        """Return the unweighted loss of each element; ``offers`` has what ``wants`` names."""
        raise NotImplementedError

    def forward(
        self,
        pred: Tensor,
        target: Any,
        weight: Tensor | None = None,
        avg_factor: float | None = None,
        reduction_override: str | None = None,
        **offers: Any,
    ) -> Tensor:
        """Return the loss.

        Args:
            pred: Predictions: logits (N, C), or boxes (G, 4) xyxy.
            target: For logits see :func:`.class_losses.read_target`; boxes (G, 4) in the same units.
            weight: See :func:`reduce_elements`.
            avg_factor: Divisor, instead of the number of elements.
            reduction_override: Reduction of this call.
            **offers: What the loss ``wants``.

        Returns:
            A scalar, or one number per element without reduction. Without elements NaN for a plain mean, 0 with an
            ``avg_factor``.
        """
        elements = self.elements(pred, target, weight, **offers)
        return self.loss_weight * reduce_elements(elements, weight, reduction_override or self.reduction, avg_factor)
