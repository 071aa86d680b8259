"""The text of a config as a run writes it to its work dir, its log and its checkpoints."""

import ast
import keyword
from collections.abc import Iterable
from typing import Any

from mmengine.config import Config

WIDTH = 100


class FormattedConfig(Config):
    """A config that writes its text in milliseconds; MMEngine's formatter takes a second, for each file and log."""

    @property
    def pretty_text(self) -> str:
        text = format_config(self.to_dict())
        try:
            ast.parse(text)
        except SyntaxError:  # a function, for example: MMEngine's error shows the text
            return super().pretty_text
        return text


def format_config(cfg: dict[str, Any]) -> str:
    """Return a config as Python text: ``name = value``, sorted, one entry a line where a value is long."""
    return ''.join(f'{name} = {_format(cfg[name], 0, len(name) + 3)}\n' for name in sorted(cfg))


def _format(value: Any, indent: int, column: int) -> str:
    """Return a value that starts at ``column`` of a line indented by ``indent``."""
    line = _inline(value)
    if column + len(line) < WIDTH or not isinstance(value, (dict, list, tuple)):
        return line
    opening, entries, closing = _parts(value)
    inner = indent + 4
    lines = [f'{" " * inner}{name}{_format(entry, inner, inner + len(name))},\n' for name, entry in entries]
    return f'{opening}\n{"".join(lines)}{" " * indent}{closing}'


def _inline(value: Any) -> str:
    if isinstance(value, (dict, list, tuple)):
        opening, entries, closing = _parts(value)
        comma = ',' * (isinstance(value, tuple) and len(value) == 1)
        return f'{opening}{", ".join(name + _inline(entry) for name, entry in entries)}{comma}{closing}'
    if isinstance(value, type):
        return value.__name__ if value.__module__ == 'builtins' else f'{value.__module__}.{value.__name__}'
    return repr(value) if isinstance(value, str) else str(value)


def _parts(value: dict | list | tuple) -> tuple[str, Iterable[tuple[str, Any]], str]:
    """Return the opening bracket, the entries with what is before each, and the closing bracket."""
    if not isinstance(value, dict):
        return '[('[isinstance(value, tuple)], [('', entry) for entry in value], '])'[isinstance(value, tuple)]
    entries = sorted(value.items(), key=lambda entry: str(entry[0]))
    if all(isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key) for key in value):
        return 'dict(', [(f'{key}=', entry) for key, entry in entries], ')'
    return '{', [(f'{key!r}: ', entry) for key, entry in entries], '}'
