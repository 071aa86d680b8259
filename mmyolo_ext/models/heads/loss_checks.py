"""Whether a loss can be taught here, asked when the head is built and not hours later.

Each loss is called once, as a copy (some count what they have seen), on two samples.
"""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from mmyolo_ext.models.heads.class_targets import class_targets
from mmyolo_ext.models.losses import SumLoss
from mmyolo_ext.models.losses.class_target import Quality
from mmyolo_ext.models.losses.host_call import call_loss, wanted
from mmyolo_ext.models.losses.repulsion_loss import Crowd

# how mmdet's losses that add channels of their own (for background) name their number
OWN_CHANNELS = ('get_cls_channels', 'get_channel_num')


def check_class_loss(loss: nn.Module, num_classes: int, smoothing: float) -> None:
    """Raise ValueError unless ``loss`` teaches C classes from what the head gives it.

    It gives logits (P, C) with targets in [0, 1] of that shape, or for a softmax class indices (P,), with label
    smoothing rows of shares (P, C). Whether it takes soft labels too is asked by :func:`soft_label_fault`.
    """
    if num_classes == 1:
        return
    if any(hasattr(loss, name) for name in OWN_CHANNELS):
        raise ValueError(
            f'loss_cls={type(loss).__name__} lays out its own channels, those of background among them; here the '
            f'network gives the {num_classes} classes alone, for positives alone, and loss_obj tells background. Use '
            'BCELoss, mmdet.CrossEntropyLoss, or one of the wrappers around them'
        )
    _try_classes(loss, torch.tensor([0, num_classes - 1]), num_classes, smoothing)


def soft_label_fault(loss: nn.Module, num_classes: int, smoothing: float) -> str | None:
    """Why ``loss`` cannot be taught soft labels, for the day when they come; None if it can.

    Asked of a class loss that passed :func:`check_class_loss`.
    """
    if num_classes == 1:
        return 'a detector of one class teaches no class, so that gt_instances.soft_labels would change nothing'
    try:
        _try_classes(loss, torch.full((2, num_classes), 1 / num_classes), num_classes, smoothing)
    except ValueError as error:
        return f'gt_instances.soft_labels need a class loss on shares; take mmdet.CrossEntropyLoss or BCELoss. {error}'
    return None


def _try_classes(loss: nn.Module, labels: Tensor, num_classes: int, smoothing: float) -> None:
    target = class_targets(labels, num_classes, smoothing, getattr(loss, 'use_sigmoid', True))
    form = f'float targets of shape (P, {num_classes})' if target.dim() > 1 else 'class indices of shape (P,)'
    _try('loss_cls', loss, _logits(num_classes), target, f'logits (P, {num_classes}) and {form}')


def check_objectness_loss(loss: nn.Module) -> None:
    """Raise ValueError unless ``loss`` teaches one logit a place, (M, 1), a target in [0, 1] of that shape."""
    if not getattr(loss, 'use_sigmoid', True):
        raise ValueError(
            f'loss_obj={type(loss).__name__} is a softmax, which over the one logit of a place is always 1; use a '
            'loss on a sigmoid'
        )
    _try('loss_obj', loss, _logits(1), torch.tensor([[0.0], [0.5]]), 'logits (M, 1) and targets of that shape')


def check_box_losses(loss: SumLoss) -> None:
    """Raise ValueError unless every term takes boxes (P, 4) and targets of that shape, and is least on the target.

    A term that wants the crowd need not be: it keeps boxes off what is no target of theirs.
    """
    boxes = torch.tensor([[0.0, 0, 2, 2], [1, 1, 3, 4]])
    index = torch.arange(2)
    offers = {'stride': 8, 'crowd': Crowd(index * 0, index, index * 0, boxes)}
    gives = 'boxes (P, 4) and targets of that shape'
    for term in loss.losses:
        # too far from 0, where a loss on logits is less the further they are
        off = _try('loss_bbox', term, boxes + 0.5, boxes, gives, **offers)
        on = _try('loss_bbox', term, boxes, boxes, gives, **offers)
        if not off.is_meta and on >= off and not wanted(term, **offers).get('crowd'):
            raise ValueError(
                f'loss_bbox={type(term).__name__} is no box loss: boxes on their targets cost {on.item():.3g}, boxes '
                f'half a pixel off {off.item():.3g}; take IoULoss, NWDLoss, or one of mmdet such as GIoULoss, L1Loss'
            )


def _logits(num_classes: int) -> Tensor:
    """Of both signs, (2, C): a loss on probabilities has no logarithm of some."""
    return torch.linspace(-3, 3, 2 * num_classes).view(2, num_classes)


def _try(name: str, loss: nn.Module, pred: Tensor, target: Tensor, gives: str, **offers: Any) -> Tensor:
    offers['quality'] = Quality(torch.tensor([0.0, 0.5]), torch.tensor(0.5))
    try:
        value = call_loss(copy.deepcopy(loss), pred, target, offers, avg_factor=2)
    # whatever a loss raises on input it was not made for
    except Exception as error:
        raise ValueError(
            f'{name}={type(loss).__name__} cannot be used here: the head gives it {gives}, and it says: {error}'
        ) from error
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise ValueError(
            f'{name}={type(loss).__name__} cannot be used here: given {gives} it must return one number, got '
            f'{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}'
        )
    # a network built without memory, as to count its parameters, has no values
    if not value.is_meta and not value.isfinite():
        raise ValueError(
            f'{name}={type(loss).__name__} cannot be used here: given {gives} it returned {value.item()}; a loss on '
            "probabilities, as mmdet's GaussianFocalLoss is, has no value for logits"
        )
    return value
