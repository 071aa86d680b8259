"""Checks of what a config hands to the transforms."""

from collections.abc import Sequence
from numbers import Integral


def check_size_hw(name: str, size: int | Sequence[int]) -> tuple[int, int]:
    """Read a size in pixels.

    Args:
        name: What to call the argument in the error.
        size: ``(height, width)``, or one side of a square.

    Raises:
        ValueError: Unless it is one positive whole number or two.
    """
    sides = (size, size) if isinstance(size, Integral) else tuple(size) if isinstance(size, Sequence) else (size,)
    if len(sides) != 2 or not all(isinstance(side, Integral) and side > 0 for side in sides):
        raise ValueError(f'{name} must be one side of a square or (height, width), whole pixels above 0, got {size!r}')
    return int(sides[0]), int(sides[1])


def check_range(name: str, value: float, low: float, high: float, *, open_end: bool = False) -> float:
    """Read a number in ``[low, high]``, or ``[low, high)`` with ``open_end``.

    Raises:
        ValueError: If it is no number or lies elsewhere.
    """
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not low <= value <= high or (open_end and value == high):
        raise ValueError(f'{name} must lie in [{low}, {high}{")" if open_end else "]"}, got {value!r}')
    return value
