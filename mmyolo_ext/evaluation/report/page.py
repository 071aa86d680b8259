"""The frame of a report page: style, sections and tables. Nothing on a page is read from elsewhere."""

import html
import math
from collections.abc import Iterable, Sequence
from typing import Any

STYLE = """
:root{color-scheme:light dark;--bg:#fff;--fg:#1c2330;--soft:#5d6778;--line:#e3e7ee;--card:#f7f9fc;--accent:#2f6fd0;
--good:#22915a}
@media(prefers-color-scheme:dark){:root{--bg:#12161d;--fg:#e6eaf1;--soft:#98a3b5;--line:#2a313d;--card:#1a202a;
--accent:#76a9ff;--good:#4cc38a}}
*{box-sizing:border-box}html{scroll-behavior:smooth;scroll-padding-top:3.5em}
body{margin:0;background:var(--bg);color:var(--fg);font:15px/1.55 system-ui,-apple-system,"Segoe UI",sans-serif}
nav{position:sticky;top:0;z-index:2;background:var(--bg);border-bottom:1px solid var(--line);padding:.6em 1.5em;
display:flex;gap:1.2em;overflow-x:auto;white-space:nowrap}
nav b{margin-right:auto}a{color:var(--accent);text-decoration:none}a:hover{text-decoration:underline}
main{max-width:1180px;margin:0 auto;padding:1em 1.5em 4em}h1{font-size:1.7em;margin:.6em 0 .1em}
h2{font-size:1.25em;margin:2.2em 0 .3em;padding-top:.6em;border-top:1px solid var(--line)}
h3{font-size:1em;margin:1.4em 0 .3em}
p.caption{color:var(--soft);margin:.2em 0 .9em;max-width:62em}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(115px,1fr));gap:.7em;margin:1em 0}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.6em .9em}
.card span{display:block;color:var(--soft);font-size:.82em}.card b{font-size:1.45em;font-variant-numeric:tabular-nums}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:1em}
.plots figure,.wide{margin:0;background:var(--card);border:1px solid var(--line);border-radius:10px;padding:.6em}
.plots figcaption,.wide figcaption{font-size:.85em;color:var(--soft);padding:0 .3em}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:.9em;font-variant-numeric:tabular-nums}
th,td{padding:.3em .75em;border-bottom:1px solid var(--line);text-align:right}th{color:var(--soft);font-weight:600}
th:first-child,td:first-child{text-align:left}table.facts td{text-align:left;overflow-wrap:anywhere}
table.facts td:first-child{color:var(--soft);white-space:nowrap}table.matrix td{text-align:center;min-width:3.6em}
table.matrix td a{color:inherit;text-decoration:underline dotted}
td.text,th.text{text-align:left}
td.zero{color:var(--soft)}details{border:1px solid var(--line);border-radius:10px;margin:.6em 0;padding:.5em .9em}
summary{cursor:pointer;font-weight:600}summary small{color:var(--soft);font-weight:400}
pre{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:1em;overflow:auto;max-height:32em;
font-size:.82em}pre mark{background:#f5c04266;color:inherit}
.images{display:grid;grid-template-columns:repeat(auto-fill,minmax(420px,1fr));gap:1em;margin:.8em 0}
figure.pair{margin:0}figure.pair>div{display:flex;gap:4px}figure.pair figcaption{font-size:.8em;color:var(--soft)}
.im{flex:1;position:relative;background:var(--line) center/100% 100% no-repeat;border-radius:6px;overflow:hidden}
.im svg{width:100%;height:100%;display:block}
.im b{position:absolute;left:4px;top:4px;font-size:.68em;font-weight:500;
background:#000a;color:#fff;padding:0 .45em;border-radius:4px}
rect{fill:none;vector-effect:non-scaling-stroke;stroke-width:1.3px;pointer-events:all;stroke-opacity:.85}
rect.m{stroke-width:3px;stroke-opacity:1}
.gt,.k-gt{stroke:#16d5ff;color:#0fb5da}.correct,.k-correct{stroke:#2bd47d;color:#22b469}.missed,.k-missed{stroke:#ff4fa3;color:#ff4fa3}
.crowd{stroke:#999;stroke-dasharray:4}
.classification,.k-classification{stroke:#ff9f1c;color:#e88c0c}.localization,.k-localization{stroke:#3fa7ff;color:#2f8fe0}
.both,.k-both{stroke:#c77dff;color:#b060f0}.duplicate,.k-duplicate{stroke:#ffe14d;color:#c9ab00}
.background,.k-background{stroke:#ff4d4d;color:#e04040}
.key{font-size:.85em;color:var(--soft)}.key i{font-style:normal;margin-right:1em}.key i::before{content:"\\25A0 "}
.key i span{color:var(--soft)}
"""


def page(title: str, sections: Sequence[tuple[str, str, str]], head: str = '', style: str = '') -> str:
    """Return a page.

    Args:
        title: Text.
        sections: Anchor, title and HTML of each.
        head: HTML below the title.
        style: More CSS.
    """
    links = ''.join(f'<a href="#{anchor}">{html.escape(name)}</a>' for anchor, name, _ in sections)
    body = ''.join(
        f'<section id="{anchor}"><h2>{html.escape(name)}</h2>{content}</section>' for anchor, name, content in sections
    )
    # without an icon of its own, a browser asks the server for one
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" '
        'content="width=device-width,initial-scale=1"><link rel="icon" href="data:,">'
        f'<title>{html.escape(title)}</title><style>{STYLE}{style}</style></head><body>'
        f'<nav><b>{html.escape(title)}</b>{links}</nav><main><h1>{html.escape(title)}</h1>{head}{body}</main>'
        '</body></html>\n'
    )


def caption(text: str) -> str:
    """Return a line below a title."""
    return f'<p class="caption">{html.escape(text)}</p>'


def cards(values: dict[str, Any]) -> str:
    """Return figures that catch the eye."""
    return (
        '<div class="cards">'
        + ''.join(
            f'<div class="card"><span>{html.escape(name)}</span><b>{html.escape(shown(value))}</b></div>'
            for name, value in values.items()
        )
        + '</div>'
    )


def plots(figures: dict[str, str]) -> str:
    """Return charts, by caption, beside each other."""
    return (
        '<div class="plots">'
        + ''.join(
            f'<figure>{svg}<figcaption>{html.escape(text)}</figcaption></figure>' for text, svg in figures.items()
        )
        + '</div>'
    )


def table(head: Sequence[str], rows: Iterable[Sequence]) -> str:
    """Return a table of text and numbers."""
    rows = list(rows)
    first = rows[0] if rows else head
    top = ''.join(f'<th{_kind(value)}>{html.escape(name)}</th>' for name, value in zip(head, first, strict=True))
    body = ''.join(
        '<tr>' + ''.join(f'<td{_kind(value)}>{html.escape(shown(value))}</td>' for value in row) + '</tr>'
        for row in rows
    )
    return f'<div class="scroll"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _kind(value: Any) -> str:
    return ' class="text"' if isinstance(value, str) else ''


def facts_table(facts: dict[str, Any]) -> str:
    """Return names and values."""
    rows = ''.join(
        f'<tr><td>{html.escape(str(name))}</td><td>{html.escape(shown(value))}</td></tr>'
        for name, value in facts.items()
    )
    return f'<div class="scroll"><table class="facts">{rows}</table></div>'


def matrix_table(counts, names: Sequence[str], links: set[tuple[int, int]]) -> str:
    """Return a confusion matrix of counts, shaded by the share of the row; cells in ``links`` lead to their images."""
    last = len(names)
    head = ''.join(f'<th>{html.escape(name)}</th>' for name in (*names, 'missed'))
    rows = []
    for row, name in enumerate((*names, 'background')):
        total, cells = max(int(counts[row].sum()), 1), []
        for column in range(last + 1):
            count = int(counts[row, column])
            share = count / total
            colour = f'rgba({"34,145,90" if row == column else "214,69,65"},{0.65 * share:.2f})' if count else 'none'
            text = f'{count}<br><small>{share:.0%}</small>' if count else '0'
            text = f'<a href="#cell-{row}-{column}">{text}</a>' if (row, column) in links else text
            text = '' if row == column == last else text
            zero = '' if count else ' class="zero"'
            cells.append(f'<td{zero} style="background:{colour}">{text}</td>')
        rows.append(f'<tr><th>{html.escape(name)}</th>{"".join(cells)}</tr>')
    top = f'<thead><tr><th>true \\ predicted</th>{head}</tr></thead>'
    return f'<div class="scroll"><table class="matrix">{top}<tbody>{"".join(rows)}</tbody></table></div>'


def details(summary: str, content: str, note: str = '', anchor: str = '', is_open: bool = False) -> str:
    """Return a part of a page that opens on a click."""
    # browsers open it for a link to an element inside
    content = f'<div id="{anchor}">{content}</div>' if anchor else content
    return (
        f'<details{" open" if is_open else ""}><summary>{html.escape(summary)} <small>{html.escape(note)}</small>'
        f'</summary>{content}</details>'
    )


def shown(value: Any) -> str:
    """Return a value as text: numbers with three decimals, dicts as ``name: value``."""
    if value is None or isinstance(value, float) and math.isnan(value):
        return '–'
    if isinstance(value, float):
        return f'{value:.3f}'
    if isinstance(value, int) and not isinstance(value, bool):
        return f'{value:,}'
    if isinstance(value, dict):
        return ', '.join(f'{name}: {shown(one)}' for name, one in value.items())
    if isinstance(value, list | tuple):
        return ', '.join(map(shown, value))
    return str(value)
