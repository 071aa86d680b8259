"""Refuse weights with NaN or infinity in them."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

NAMED = 3  # tensors in the message


def non_finite_names(state_dict: Mapping[str, Any]) -> list[str]:
    """Return the names of floating-point tensors that hold NaN or infinity.

    A tensor of zeros and minus infinities passes: it is a mask that is added to attention scores.

    Args:
        state_dict: Names to tensors; may be nested, as that of an optimizer; other values are left out.
    """
    return [name for name, tensor in _named_tensors(state_dict, '') if not _is_finite(tensor)]


def check_finite(state_dict: Mapping[str, Any], source: str | Path) -> None:
    """Refuse a state dict that holds NaN or infinity.

    Args:
        state_dict: As of :func:`non_finite_names`.
        source: File it came from, for the message.

    Raises:
        ValueError: Naming the file and the tensors.
    """
    names = non_finite_names(state_dict)
    if names:
        more = f' and {len(names) - NAMED} more' if len(names) > NAMED else ''
        raise ValueError(
            f'{source} holds NaN or infinity in {", ".join(names[:NAMED])}{more}: the training that wrote it had '
            'diverged; use an earlier checkpoint'
        )


def _is_finite(tensor: Tensor) -> bool:
    if not (tensor.is_floating_point() or tensor.is_complex()) or tensor.is_meta or bool(tensor.isfinite().all()):
        return True
    return bool(((tensor == 0) | (tensor == float('-inf'))).all())


def _named_tensors(value: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, (Mapping, list, tuple)):
        entries = value.items() if isinstance(value, Mapping) else enumerate(value)
        for key, entry in entries:
            yield from _named_tensors(entry, f'{name}.{key}' if name else str(key))
