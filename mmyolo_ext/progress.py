"""Progress bars of commands on a terminal, plain lines elsewhere; Rich is imported when a bar is drawn."""

import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import Any, TextIO, TypeVar

RATE = 5.0  # updates of a bar in a second
LINE_SECONDS = 10.0  # between two plain lines
ON_SCREEN: list[Any] = []  # Rich's Progress, while one is drawn: further bars are rows of it
Item = TypeVar('Item')


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a stream is a terminal that can move its cursor."""
    return stream is not None and stream.isatty() and os.environ.get('TERM', 'dumb') != 'dumb'


def columns() -> tuple:
    """Return what all bars show: a text, the bar, done and total, the time since its start."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn

    text = TextColumn('{task.description}', markup=False)
    return text, BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()


def with_bar(items: Iterable[Item], text: str, total: int | None = None) -> Iterator[Item]:
    """Yield items while a bar shows how many are done, see :func:`bar`.

    Args:
        items: Anything iterable.
        text: In front of the bar.
        total: Number of items; by default their ``len``, if they have one.

    Examples:
        >>> for path in with_bar(paths, 'Reading images'):
        ...     read(path)
    """
    with bar(text, len(items) if total is None and isinstance(items, Sized) else total) as advance:
        for item in items:
            yield item
            advance()


@contextmanager
def bar(text: str, total: int | None = None) -> Iterator[Callable[[], None]]:
    """Show a bar on standard error while the block runs; a bar inside of another one is a row below it.

    Where standard error is no terminal, a job of more than 10 s prints lines instead. Of several ranks, the first one
    shows it. No thread redraws it.

    Args:
        text: In front of the bar.
        total: Number of calls of ``advance``; None if it is not known.

    Yields:
        ``advance``, to call after each part of the work.
    """
    if os.environ.get('RANK', '0') != '0':
        yield lambda: None
    elif ON_SCREEN or is_terminal(sys.stderr):
        with _drawn(text, total) as advance:
            yield advance
    else:
        yield _lines(text, total)


@contextmanager
def _drawn(text: str, total: int | None) -> Iterator[Callable[[], None]]:
    is_first = not ON_SCREEN
    if is_first:
        ON_SCREEN.append(_start())
    bars, done, drawn = ON_SCREEN[0], 0, 0.0
    task = bars.add_task(text, total=total)
    bars.refresh()

    def advance() -> None:
        nonlocal done, drawn
        done, now = done + 1, time.monotonic()
        if done == total or now - drawn >= 1 / RATE:
            drawn = now
            bars.update(task, completed=done, refresh=True)

    try:
        yield advance
    finally:
        bars.remove_task(task)
        if is_first:
            bars.stop()
            ON_SCREEN.clear()


def _start() -> Any:
    from rich.console import Console
    from rich.progress import Progress

    settings = {'auto_refresh': False, 'transient': True}
    # printed lines appear above the bar; standard output that goes elsewhere stays there
    settings['redirect_stdout'] = is_terminal(sys.stdout)
    bars = Progress(*columns(), console=Console(stderr=True), **settings)
    bars.start()
    return bars


def _lines(text: str, total: int | None) -> Callable[[], None]:
    done, printed = 0, time.monotonic()

    def advance() -> None:
        nonlocal done, printed
        done, now = done + 1, time.monotonic()
        if now - printed >= LINE_SECONDS:
            printed = now
            print(f'{text}: {done:,}' + ('' if total is None else f' of {total:,}'), file=sys.stderr, flush=True)

    return advance
