"""Compare a checkpoint with a model, and adapt it where it is clear how.

Letters: L levels, A anchors of a level, C classes.
"""

from collections.abc import Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

NOT_WEIGHTS = 'num_batches_tracked'  # counters of batch norm, irrelevant to the fit

Shape = tuple[int, ...] | str  # of a tensor; for anything else the name of its type


@dataclass(frozen=True)
class LoadReport:
    """Comparison of a model's state dict with a checkpoint's, by name and shape.

    Attributes:
        matched: Names in both, with the same shape.
        missing: Names in the model only.
        unexpected: Names in the checkpoint only.
        reshaped: Names in both with different shapes: that in the model, that in the checkpoint.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: dict[str, tuple[Shape, Shape]]

    @classmethod
    def of(cls, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> 'LoadReport':
        """Compare a model's state dict with a checkpoint's, ignoring the counters of batch norms."""
        wanted, given = _weights(wanted), _weights(given)
        shapes = {name: (_shape(wanted[name]), _shape(given[name])) for name in wanted if name in given}
        return cls(
            matched=tuple(name for name, (here, there) in shapes.items() if here == there),
            missing=tuple(name for name in wanted if name not in given),
            unexpected=tuple(name for name in given if name not in wanted),
            reshaped={name: pair for name, pair in shapes.items() if pair[0] != pair[1]},
        )

    @property
    def complete(self) -> bool:
        """Return whether all names and shapes are the same."""
        return not (self.missing or self.reshaped or self.unexpected)

    def __str__(self) -> str:
        """Return one sentence without a full stop, with a few names of each kind."""
        wanted = len(self.matched) + len(self.missing) + len(self.reshaped)
        parts = [f'{len(self.matched)} of {wanted} tensors match']
        if self.missing:
            parts.append(f'{len(self.missing)} are missing ({_some(self.missing)})')
        if self.reshaped:
            names = tuple(self.reshaped)
            here, there = self.reshaped[names[0]]
            parts.append(
                f'{len(names)} have another shape ({_some(names)}; the first is {here} in the model, {there} in the '
                'checkpoint)'
            )
        if self.unexpected:
            parts.append(f'{len(self.unexpected)} are not in the model ({_some(self.unexpected)})')
        return ', '.join(parts)

    def table(self) -> str:
        """Return all names that do not match, one layer per line; empty if there are none."""
        shapes = [f'{name} {here}, in the checkpoint {there}' for name, (here, there) in self.reshaped.items()]
        kinds = {'missing in the checkpoint': self.missing, 'of another shape': shapes}
        kinds['not in the model'] = self.unexpected
        return '\n'.join(line for title, names in kinds.items() if names for line in (f'{title}:', *_by_layer(names)))

    def full_table(self, left_out: tuple[str, ...] = ()) -> str:
        """Return the number of tensors of each kind, :meth:`table`, and the names that are not weights."""
        rows = {
            'matched': len(self.matched),
            'missing': len(self.missing),
            'unexpected': len(self.unexpected),
            'of another shape': len(self.reshaped),
            'no weights, left out': len(left_out),
        }
        lines = [f'{"tensors":22}{"count":>6}', *(f'{kind:22}{count:>6}' for kind, count in rows.items())]
        lines += self.table().splitlines() + ([f'left out: {", ".join(left_out)}'] if left_out else [])
        return '\n'.join(f'  {line}' for line in lines)


def _weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state_dict.items() if not name.endswith(NOT_WEIGHTS)}


def _shape(value: object) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else f'a {type(value).__name__}'


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def _by_layer(names: Iterable[str]) -> list[str]:
    """``a.weight``, ``a.bias`` -> ``a: weight, bias``; text after a blank stays with its name."""
    layers: dict[str, list[str]] = {}
    for entry in names:
        name, blank, rest = entry.partition(' ')
        layer, _, tensor = name.rpartition('.')
        layers.setdefault(layer or '(top)', []).append(tensor + blank + rest)
    return [
        f'  {layer}: {"; ".join(tensors) if " " in tensors[0] else ", ".join(tensors)}'
        for layer, tensors in layers.items()
    ]


PREDICTIONS = 'bbox_head.convs_pred.'
HEADS = ('bbox_head.', 'roi_head.bbox_head.')
# keys that mmengine_loader adds to a checkpoint
ANCHORS, DARKNET_FILE = 'anchors_px', 'darknet_file'


def fit(model: nn.Module, checkpoint: MutableMapping[str, Any], start_anew: bool) -> tuple[LoadReport, list[str]]:
    """Adapt the weights in ``checkpoint`` to the model, in place.

    * The prefix ``module.`` of names is removed.
    * A file of Darknet is read by the model, which must be a ``DarknetCfg``.
    * If no name matches, the weights are tried as those of the backbone, translated by its ``translate``.
    * With ``start_anew``, a head for other classes is initialised: for our heads the class outputs, while boxes and
      objectness are kept; for other heads every tensor of another shape.

    Args:
        model: Model to load into.
        checkpoint: Result of :func:`~.mmengine_loader.read_weights`.
        start_anew: Whether a training starts from the weights, so that mismatches in the head are acceptable.

    Returns:
        The comparison with the adapted weights, and sentences on what was changed.

    Raises:
        ValueError: If a file of Darknet is for another model, or, without ``start_anew``, anchors differ from the
            head's.
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
    num_anchors = getattr(head, 'num_anchors', None)
    ours = [name for name in report.reshaped if name.startswith(PREDICTIONS)] if isinstance(num_anchors, int) else []
    before = {_classes_of(given[name], wanted[name], num_anchors) for name in ours}
    if len(before) != 1 or None in before:
        ours = []
    notes = []
    for name in ours:
        given[name] = _with_other_classes(given[name], wanted[name], num_anchors)
    if ours:
        notes.append(
            f'the checkpoint has {before.pop()} classes, the model {head.num_classes}: the class outputs of '
            'bbox_head.convs_pred start anew, boxes and objectness are kept'
        )
    others = [name for name in report.reshaped if name.startswith(HEADS) and name not in ours]
    for name in others:
        del given[name]
    if others:
        notes.append(f'of the head, {", ".join(others)} have another shape, as with other classes, and start anew')
    return notes


def _classes_of(given: Any, wanted: Tensor, num_anchors: int) -> int | None:
    """Return C of a prediction layer (A * (5 + C), ...) if it differs in nothing else."""
    if not isinstance(given, Tensor) or given.dim() == 0 or given.shape[1:] != wanted.shape[1:]:
        return None
    classes = given.shape[0] // num_anchors - 5
    return classes if given.shape[0] % num_anchors == 0 and classes > 0 else None


def _with_other_classes(given: Tensor, wanted: Tensor, num_anchors: int) -> Tensor:
    # (A * (5 + C), ...) -> (A, 5 + C, ...)
    merged = wanted.detach().clone().unflatten(0, (num_anchors, -1))
    merged[:, :5] = given.unflatten(0, (num_anchors, -1))[:, :5].to(merged)
    return merged.flatten(0, 1)


def _compare_anchors(model: nn.Module, anchors: Any, start_anew: bool) -> list[str]:
    """Compare the checkpoint's anchors, (L, A, 2) px, with the head's."""
    own = getattr(getattr(model, 'bbox_head', None), 'anchors_wh', None)
    if anchors is None or own is None:
        return []
    given = torch.tensor(anchors, dtype=torch.float32)
    if given.shape == own.shape and torch.allclose(given, own.cpu(), rtol=1e-3):
        return []
    text = (
        f'the checkpoint was trained with the anchors {anchors}, the config has others: set base_sizes of '
        'bbox_head.prior_generator to them'
    )
    if not start_anew:
        raise ValueError(text)
    return [text]
