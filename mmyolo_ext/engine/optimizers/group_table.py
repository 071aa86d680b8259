"""Say which parameters learn how fast."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from torch import nn

HEADER = ('rate', 'decay', 'role', 'tensors', 'parameters', 'where')


def group_table(groups: Sequence[Mapping], where: Mapping[int, str], frozen: Mapping[str, nn.Parameter]) -> str:
    """A line on all groups of an optimizer and on what is frozen, then one for each group.

    Args:
        groups: of the optimizer, with ``role``; rates are those before any schedule.
        where: for each parameter, by its ``id``, the part of the model it stands in.
        frozen: parameters that are not trained, by name.
    """
    rows = [HEADER, *(_row(group, where) for group in groups)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEADER) - 1)]
    lines = [
        '  '.join([*(cell.rjust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]) for row in rows
    ]
    trained = _count(parameter for group in groups for parameter in group['params'])
    return '\n'.join([f'Training {trained:,} parameters; {_frozen(frozen)}.', *(f'  {line}' for line in lines)])


def _row(group: Mapping, where: Mapping[int, str]) -> tuple[str, ...]:
    parameters = group['params']
    places = dict.fromkeys(where[id(parameter)] for parameter in parameters)
    rate, decay = f'{group["lr"]:g}', f'{group["weight_decay"]:g}'
    return (rate, decay, group['role'], str(len(parameters)), f'{_count(parameters):,}', ', '.join(places))


def _frozen(frozen: Mapping[str, nn.Parameter]) -> str:
    if not frozen:
        return 'none is frozen'
    parts: Counter = Counter()
    for name, parameter in frozen.items():
        parts[name.partition('.')[0]] += parameter.numel()
    told = ', '.join(f'{count:,} of {part}' for part, count in parts.items())
    return f'{sum(parts.values()):,} are frozen ({told})'


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)
