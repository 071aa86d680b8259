"""The text of a Darknet ``.cfg`` file: sections in order, fields, and the line of everything, for the errors."""

import difflib
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

Number = TypeVar('Number', int, float)
MAX_BYTES = 1_000_000  # of a file; YOLOv4's has 12,000
MAX_INTEGER = 2**31 - 1
COMMENT_STARTS = ('#', ';')


class Field(NamedTuple):
    """What stands behind ``name=``, and where."""

    text: str
    line: int


@dataclass
class Section:
    """``[kind]`` and the fields below it.

    Every ``ValueError`` that comes from here starts with ``file:line:``.
    """

    path: Path
    line: int
    kind: str
    fields: dict[str, Field] = field(default_factory=dict)

    def fail(self, message: str, name: str | None = None) -> NoReturn:
        """Raise ValueError at the line of field ``name``, or of the section's head if it is not given."""
        line = self.fields[name].line if name in self.fields else self.line
        raise ValueError(f'{self.path}:{line}: [{self.kind}] {message}')

    def integer(self, name: str, default: int | None = None, least: int = 0) -> int:
        """One whole number; without a default the field is required."""
        if name not in self.fields and default is not None:
            return default
        wanted = f'{name} must be a whole number of at least {least}'
        value = self._checked(name, int, wanted, lambda value: value >= least)
        if value > MAX_INTEGER:
            self.fail(f'{name} must be at most {MAX_INTEGER:,}', name)
        return value

    def switch(self, name: str) -> bool:
        """0 or 1, 0 by default."""
        if name not in self.fields:
            return False
        return bool(self._checked(name, int, f'{name} must be 0 or 1', lambda value: value in (0, 1)))

    def choice(self, name: str, allowed: Collection[str], default: str | None = None) -> str:
        """One of several words; without a default the field is required."""
        if name not in self.fields and default is not None:
            return default
        wanted = f'{name} must be one of {tuple(allowed)}'
        return self._checked(name, str, wanted, lambda value: value in allowed)

    def numbers(self, name: str, kind: Callable[[str], Number] = int) -> list[Number]:
        """A required list, commas between the numbers; a comma at the end is allowed, as Darknet allows it."""

        def read(text: str) -> list[Number]:
            return [kind(part) for part in text.rstrip(', ').split(',')]

        return self._checked(name, read, f'{name} must be numbers with commas between them', bool)

    def _checked(self, name: str, read: Callable[[str], Any], wanted: str, accepts: Callable[[Any], bool]) -> Any:
        if name not in self.fields:
            self.fail(f'{wanted}, but the field is missing')
        text = self.fields[name].text
        try:
            value = read(text)
        except ValueError:
            self.fail(f'{wanted}, got {text!r}', name)
        return value if accepts(value) else self.fail(f'{wanted}, got {text!r}', name)


def read_sections(path: str | Path) -> list[Section]:
    """The sections of a file, none of them looked into.

    Raises:
        ValueError: a line that is neither a comment, a section's head nor ``name=value``; a field before the first
            section, twice in one, or empty; no section at all.
        FileNotFoundError: no such file.
    """
    path = Path(path)
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f'{path} has {path.stat().st_size:,} bytes: a .cfg file has at most {MAX_BYTES:,}')
    sections: list[Section] = []
    for number, raw_line in enumerate(path.read_text(encoding='utf-8-sig').splitlines(), 1):
        text = raw_line.split('#')[0].strip()
        if not text or text.startswith(COMMENT_STARTS):
            continue
        if text.startswith('['):
            if not text.endswith(']'):
                raise ValueError(f'{path}:{number}: a section starts with [name] on a line of its own, got {text!r}')
            sections.append(Section(path, number, text[1:-1].strip()))
        elif not sections:
            raise ValueError(f'{path}:{number}: the file must start with [net], got {text!r}')
        else:
            _add_field(sections[-1], text, number)
    if not sections:
        raise ValueError(f'{path}:1: the file holds no section')
    return sections


def _add_field(section: Section, text: str, line: int) -> None:
    name, equals, value = (part.strip() for part in text.partition('='))
    if not (name and equals and value):
        raise ValueError(f'{section.path}:{line}: [{section.kind}] expected name=value, got {text!r}')
    if name in section.fields:
        raise ValueError(
            f'{section.path}:{line}: [{section.kind}] {name} is given twice, first in line {section.fields[name].line}'
        )
    section.fields[name] = Field(value, line)


def did_you_mean(name: str, known: Collection[str]) -> str:
    """A hint for an error message; empty if nothing is near.

    >>> did_you_mean('strid', ['size', 'stride'])
    "; did you mean 'stride'?"
    """
    near = difflib.get_close_matches(name, known, n=1)
    return f'; did you mean {near[0]!r}?' if near else ''
