"""What can be learned of a part from its config alone, before it is built."""

import inspect
from typing import Any

from mmyolo_ext.registry import MODELS


def ancestors(part: dict) -> tuple[type, ...]:
    """The class that the registry would build and those that it derives from, nearest first; none if unknown."""
    kind = part['type']
    if isinstance(kind, str):
        with MODELS.switch_scope_and_registry(part.get('_scope_')) as registry:
            kind = registry.get(kind)
    return inspect.getmro(kind) if inspect.isclass(kind) else ()


def option(part: dict, name: str) -> Any:
    """What the config says, else the default."""
    return part[name] if name in part else default(part, name)


def default(part: dict, name: str) -> Any:
    """The value that the nearest class which takes this argument has for it; None without one."""
    for ancestor in ancestors(part):
        init = ancestor.__dict__.get('__init__')
        parameter = inspect.signature(init).parameters.get(name) if inspect.isfunction(init) else None
        if parameter is not None:
            return None if parameter.default is parameter.empty else parameter.default
    return None
