"""What of a state dict fits a model: names and shapes compared, and told in a sentence or a table."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

NOT_WEIGHTS = 'num_batches_tracked'  # counters of batch norm, which say nothing about the fit

Shape = tuple[int, ...] | str  # of a tensor; for anything else the name of its type


@dataclass(frozen=True)
class LoadReport:
    """Names of tensors, each in the order of the side that it comes from.

    Attributes:
        matched: in both, of one shape.
        missing: in the model alone.
        unexpected: in the checkpoint alone.
        reshaped: in both, with the shape in the model and that in the checkpoint.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    reshaped: dict[str, tuple[Shape, Shape]]

    @classmethod
    def of(cls, wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> 'LoadReport':
        """Compare a model's state dict with a checkpoint's; the counters of batch norms are left out of both."""
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
        """Whether every tensor of the model has its own, and none of the checkpoint is left."""
        return not (self.missing or self.reshaped or self.unexpected)

    def __str__(self) -> str:
        """One sentence without a full stop, with a few names of each kind."""
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
        """All names that do not match, a layer a line; empty if there are none."""
        shapes = (f'{name} {here}, in the checkpoint {there}' for name, (here, there) in self.reshaped.items())
        kinds = (
            ('missing in the checkpoint', self.missing),
            ('of another shape', shapes),
            ('not in the model', self.unexpected),
        )
        lines = []
        for title, names in kinds:
            layers = _by_layer(names)
            lines += [f'{title}:', *layers] if layers else []
        return '\n'.join(lines)

    def full_table(self, left_out: tuple[str, ...] = ()) -> str:
        """How many tensors of each kind, then :meth:`table`, then the names that are no weights."""
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


def compare(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor]) -> tuple[int, str]:
    """How many tensors fit by name and shape, and a sentence on all of them."""
    report = LoadReport.of(wanted, given)
    return len(report.matched), str(report)


def _weights(state_dict: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value for name, value in state_dict.items() if not name.endswith(NOT_WEIGHTS)}


def _shape(value: object) -> Shape:
    return tuple(value.shape) if isinstance(value, Tensor) else f'a {type(value).__name__}'


def _some(names: tuple[str, ...], limit: int = 3) -> str:
    return ', '.join(names[:limit]) + (', ...' if len(names) > limit else '')


def _by_layer(names: Iterable[str]) -> list[str]:
    """``a.weight``, ``a.bias`` -> ``a: weight, bias``; what follows a name after a blank stays with it."""
    layers: dict[str, list[str]] = {}
    for entry in names:
        name, blank, rest = entry.partition(' ')
        layer, _, tensor = name.rpartition('.')
        layers.setdefault(layer or '(top)', []).append(tensor + blank + rest)
    return [
        f'  {layer}: {"; ".join(tensors) if " " in tensors[0] else ", ".join(tensors)}'
        for layer, tensors in layers.items()
    ]
