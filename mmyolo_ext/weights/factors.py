"""The width and depth factors of a YOLOv5 network, from the channels and blocks that it has."""

import math
from collections.abc import Callable, Sequence

# of the models that are published, and then every hundredth
WIDTHS = (0.25, 0.5, 0.75, 1.0, 1.25)
DEPTHS = (0.33, 0.67, 1.0, 1.33)
HUNDREDTHS = tuple(hundredth / 100 for hundredth in range(1, 401))


def find_widen_factor(base: Sequence[int], actual: Sequence[int], told: float | None = None) -> float:
    """The factor by which channels become those that are there: times the factor, rounded up to a multiple of 8.

    Args:
        base: channels at full width.
        actual: those of the network.
        told: what the file says; taken if it fits.

    Raises:
        ValueError: no factor fits.

    >>> find_widen_factor((64, 1024), (32, 512))
    0.5
    """
    fits = _fits(base, actual, lambda channels, factor: math.ceil(channels * factor / 8) * 8)
    # the exact ratio of the widest layer is left where no hundredth fits
    for factor in (told, *WIDTHS, *HUNDREDTHS, max(actual) / max(base)):
        if factor and fits(factor):
            return factor
    raise ValueError(f'channels {tuple(actual)} are not {tuple(base)} times one factor, rounded up to a multiple of 8')


def find_deepen_factor(base: Sequence[int], actual: Sequence[int], told: float | None = None) -> float:
    """The factor by which numbers of blocks become those that are there: times the factor, rounded, at least 1.

    Raises:
        ValueError: no factor fits.

    >>> find_deepen_factor((3, 6, 9), (2, 4, 6))
    0.67
    """
    fits = _fits(base, actual, lambda blocks, factor: max(round(blocks * factor), 1))
    for factor in (told, *DEPTHS, *HUNDREDTHS):
        if factor and fits(factor):
            return factor
    raise ValueError(f'blocks {tuple(actual)} are not {tuple(base)} times one factor, rounded')


def _fits(base: Sequence[int], actual: Sequence[int], scaled: Callable[[int, float], int]) -> Callable[[float], bool]:
    return lambda factor: all(scaled(b, factor) == a for b, a in zip(base, actual, strict=True))
