"""Make a checkpoint fit a model where it is clear how, and say what was done.

Letters: L levels, A priors of a level, C classes.
"""

from collections.abc import MutableMapping
from typing import Any

import torch
from torch import Tensor, nn

from mmyolo_ext.compat.load_report import NOT_WEIGHTS, LoadReport

PREDICTIONS = 'bbox_head.convs_pred.'
HEADS = ('bbox_head.', 'roi_head.bbox_head.')
# keys of a checkpoint by which its reader tells more than weights
ANCHORS, DARKNET_FILE = 'anchors_px', 'darknet_file'


def fit(model: nn.Module, checkpoint: MutableMapping[str, Any], start_anew: bool) -> tuple[LoadReport, list[str]]:
    """Change the weights in ``checkpoint``, in place, to those that the model can take.

    * ``module.`` before names, from a wrapper for several devices, is taken off.
    * A file of Darknet is read by the model, which must be a ``DarknetCfg``.
    * Weights of which none fits are taken for those of the backbone alone, if it knows how to name them.
    * With ``start_anew``, a head for other classes: of our heads' predictions, boxes and objectness are kept and the
      classes start anew; of other heads, whatever has another shape.

    Returns:
        What fits now, and sentences on what was changed.

    Raises:
        ValueError: a file of Darknet for another model, or, without ``start_anew``, other anchors than the head's.
    """
    state = checkpoint.get('state_dict', checkpoint)
    plain = {str(key).removeprefix('module.'): value for key, value in state.items()}
    notes = []
    if DARKNET_FILE in checkpoint:
        plain = _from_darknet(model, checkpoint[DARKNET_FILE])
    wanted = _weights(model.state_dict())
    report = LoadReport.of(wanted, plain)
    if not report.matched:
        plain = _as_backbone(model, plain) or plain
        report = LoadReport.of(wanted, plain)
    if start_anew and report.reshaped:
        notes += _fit_classes(model, wanted, plain, report)
        report = LoadReport.of(wanted, plain)
    notes += _compare_anchors(model, checkpoint.get(ANCHORS), start_anew)
    state.clear()
    state.update(plain)
    return report, notes


def _weights(state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state_dict.items() if not name.endswith(NOT_WEIGHTS)}


def _from_darknet(model: nn.Module, path: str) -> dict[str, Tensor]:
    if not hasattr(model, 'load_weights'):
        raise ValueError(
            f'{path} is a file of Darknet, which names no layers: the model must be a mmyolo_ext.DarknetCfg of the '
            f'.cfg file it belongs to, got {type(model).__name__}'
        )
    model.load_weights(path)
    return dict(model.state_dict())


def _as_backbone(model: nn.Module, given: dict[str, Any]) -> dict[str, Any] | None:
    translate = getattr(getattr(model, 'backbone', None), 'translate', None)
    if translate is None:
        return None
    inner = {key.removeprefix('backbone.'): value for key, value in given.items()}
    wanted = model.backbone.state_dict()
    named = {key: value for key, value in translate(inner).items() if key in wanted}
    return {f'backbone.{key}': value for key, value in named.items()} or None


def _fit_classes(model: nn.Module, wanted: dict[str, Tensor], given: dict[str, Any], report: LoadReport) -> list[str]:
    head = getattr(model, 'bbox_head', None)
    priors = getattr(head, 'num_anchors', None)
    ours = [name for name in report.reshaped if name.startswith(PREDICTIONS)] if isinstance(priors, int) else []
    before = {_classes_of(given[name], wanted[name], priors) for name in ours}
    notes = []
    if len(before) == 1 and None not in before:
        for name in ours:
            given[name] = _with_other_classes(given[name], wanted[name], priors)
        notes.append(
            f'the checkpoint has {before.pop()} classes, the model {head.num_classes}: the class outputs of '
            'bbox_head.convs_pred start anew, boxes and objectness are kept'
        )
    else:
        ours = []
    others = [name for name in report.reshaped if name.startswith(HEADS) and name not in ours]
    for name in others:
        del given[name]
    if others:
        notes.append(f'of the head, {", ".join(others)} have another shape, as with other classes, and start anew')
    return notes


def _classes_of(given: Any, wanted: Tensor, priors: int) -> int | None:
    """C of a prediction (A * (5 + C), ...) that differs in nothing else."""
    if not isinstance(given, Tensor) or given.dim() == 0 or given.shape[1:] != wanted.shape[1:]:
        return None
    classes = given.shape[0] // priors - 5
    return classes if given.shape[0] % priors == 0 and classes > 0 else None


def _with_other_classes(given: Tensor, wanted: Tensor, priors: int) -> Tensor:
    # (A * (5 + C), ...) -> (A, 5 + C, ...)
    merged = wanted.detach().clone().unflatten(0, (priors, -1))
    merged[:, :5] = given.unflatten(0, (priors, -1))[:, :5].to(merged)
    return merged.flatten(0, 1)


def _compare_anchors(model: nn.Module, anchors: Any, start_anew: bool) -> list[str]:
    """(L, A, 2) px of the checkpoint against the head's."""
    own = getattr(getattr(model, 'bbox_head', None), 'anchors_wh', None)
    if anchors is None or own is None:
        return []
    told = torch.tensor(anchors, dtype=torch.float32)
    if told.shape == own.shape and torch.allclose(told, own.cpu(), rtol=1e-3):
        return []
    text = (
        f'the checkpoint was trained with the anchors {anchors}, the config has others: set base_sizes of '
        'bbox_head.prior_generator to them'
    )
    if not start_anew:
        raise ValueError(text)
    return [text]
