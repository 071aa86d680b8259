"""What may be called in a checkpoint: builders of our own, and stand-ins, which do nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mmyolo_ext.compat.inert import RefusedError, StandIn


@dataclass(frozen=True, eq=False, slots=True)
class Builder:
    """Stands in the pickle for a class or function that makes data; what it is hung with by the file is refused."""

    build: Callable[..., Any]


def build(maker: Any, args: Any, kwargs: Any = None) -> Any:
    """Call a builder, or make a stand-in.

    Raises:
        RefusedError: ``maker`` is neither, or the builder does not take the arguments.
    """
    kwargs = kwargs or {}
    if type(args) is not tuple or type(kwargs) is not dict:
        raise RefusedError(f'a call with {type(args).__name__}')
    if type(maker) is Builder:
        return maker.build(*args, **kwargs)
    if isinstance(maker, type) and issubclass(maker, StandIn):
        return maker(args, kwargs)
    if isinstance(maker, StandIn):
        return type(maker)(args, kwargs)
    raise RefusedError(f'a call of {type(maker).__name__}')
