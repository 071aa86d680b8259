"""What stands in a checkpoint for objects whose classes are not loaded."""

from functools import lru_cache
from typing import Any


class RefusedError(ValueError):
    """A checkpoint asks for something that is not data."""


class StandIn:
    """An object of a class that is not loaded. It keeps what the file says of it, and does nothing.

    Its type bears the module and the name of the class, and nothing else of it.

    Attributes:
        args: what the object would have been made with; ``kwargs`` likewise.
        items: what would have been appended to it or, as pairs, set in it.
        state: its attributes by their names, or whatever else the file holds as its state; None if nothing.
    """

    __slots__ = ('args', 'items', 'kwargs', 'state')

    def __init__(self, args: tuple = (), kwargs: dict | None = None) -> None:
        self.args = args
        self.kwargs = kwargs or {}
        self.items: list = []
        self.state: Any = None

    def get(self, name: str, default: Any = None) -> Any:
        """An attribute of the object."""
        return self.state.get(name, default) if isinstance(self.state, dict) else default


@lru_cache(maxsize=4096)
def stand_in_class(module: str, name: str) -> type[StandIn]:
    """The type of the stand-ins for a class."""
    return type(name, (StandIn,), {'__module__': module, '__slots__': ()})
