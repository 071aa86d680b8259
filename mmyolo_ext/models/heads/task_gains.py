"""The gains of the recipe, fitted to the task at hand."""

from typing import NamedTuple

# the task for which the recipe was tuned
NOMINAL_SIZE = 640
NOMINAL_CLASSES = 80
NOMINAL_LEVELS = 3


class Gains(NamedTuple):
    """Factors on the three losses, beyond the losses' own weights."""

    cls: float = 1.0
    bbox: float = 1.0
    obj: float = 1.0


def task_gains(num_classes: int, num_levels: int, input_size: int | tuple[int, int]) -> Gains:
    """Fewer classes make a mean over them harder, more levels a longer sum, more pixels more places without an object.

    Args:
        num_classes: of the task.
        num_levels: of the network.
        input_size: side, or (height, width), px.

    >>> task_gains(20, 3, 320)
    Gains(cls=0.25, bbox=1.0, obj=0.25)
    """
    height, width = (input_size, input_size) if isinstance(input_size, int) else input_size
    per_level = NOMINAL_LEVELS / num_levels
    return Gains(
        cls=num_classes / NOMINAL_CLASSES * per_level,
        bbox=per_level,
        obj=height * width / NOMINAL_SIZE**2 * per_level,
    )
