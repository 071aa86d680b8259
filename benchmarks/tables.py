"""Tables of figures, and their places in ``docs/benchmarks/index.md``."""

from collections.abc import Mapping, Sequence
from pathlib import Path

DOC = Path(__file__).resolve().parents[1] / 'docs' / 'benchmarks' / 'index.md'


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown, without a newline at its end."""
    lines = [heads, ['---'] * len(heads), *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines)


def span(times: Mapping[str, float]) -> str:
    """Median, and in brackets least and most, of what :func:`machine.measure` gives: ``12.3 (11.9-14.0)``."""
    median, least, most = (times[name] for name in ('median_ms', 'min_ms', 'max_ms'))
    digits = 1 if median >= 10 else 2
    return f'{median:.{digits}f} ({least:.{digits}f}-{most:.{digits}f})'


def update(name: str, text: str, doc: Path = DOC) -> None:
    """Put ``text`` between ``<!-- NAME:begin -->`` and ``<!-- NAME:end -->`` of a document.

    Raises:
        ValueError: it does not have each of the two once, in this order.
    """
    begin, end = f'<!-- {name}:begin -->', f'<!-- {name}:end -->'
    content = doc.read_text(encoding='utf-8')
    before, _, rest = content.partition(begin)
    inside, found, after = rest.partition(end)
    if not found or begin in inside + after or end in before + after:
        raise ValueError(f'{doc} must have one {begin} and after it one {end}')
    doc.write_text(f'{before}{begin}\n{text}\n{end}{after}', encoding='utf-8')
