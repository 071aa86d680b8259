"""Charts of a report: matplotlib figures, as PNG files and as SVG for the page.

Text and axes of an SVG have the colour of the page's text, so that they fit light and dark pages.
"""

import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

COLOURS = (
    '#2f7ed8',
    '#e4572e',
    '#2a9d5c',
    '#b565c9',
    '#d9a400',
    '#17a2b8',
    '#d6336c',
    '#8a6d3b',
    '#6c7a89',
    '#7cb518',
)
MOST_POINTS = 300  # of a line
MARGIN = 0.04  # inch, around a chart


class Figures:
    """Draw figures, keep them as PNG files in ``folder`` and return them as SVG."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def draw(self, name: str, plot: Callable, size: tuple[float, float] = (4.6, 3.2)) -> str:
        """Draw by ``plot(axes)``; write ``NAME.png`` and return SVG."""
        import matplotlib as mpl
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure

        style = {'svg.fonttype': 'none', 'svg.hashsalt': name, 'font.size': 9, 'axes.spines.top': False}
        style |= {
            'axes.spines.right': False,
            'axes.grid': True,
            'grid.alpha': 0.3,
            'axes.axisbelow': True,
            'legend.frameon': False,
        }
        style |= {'axes.prop_cycle': mpl.cycler(color=COLOURS), 'axes.titlesize': 10, 'font.family': 'sans-serif'}
        with mpl.rc_context(style):
            figure = Figure(figsize=size, dpi=130)
            axes = figure.add_subplot()
            plot(axes)
            png = FigureCanvasAgg(figure)
            # matplotlib's layout engines measure the text twice, and again for each file
            inner, outer = axes.bbox, axes.get_tightbbox(png.get_renderer(), for_layout_only=True)
            (left, bottom), (right, top) = np.abs(inner.get_points() - outer.get_points()) + MARGIN * figure.dpi
            width, height = figure.bbox.size
            figure.subplots_adjust(left / width, bottom / height, 1 - right / width, 1 - top / height)
            png.print_figure(self.folder / f'{name}.png')
            figure.patch.set_alpha(0)
            axes.patch.set_alpha(0)
            text = io.StringIO()
            FigureCanvasSVG(figure).print_figure(text, metadata={'Date': None, 'Creator': None})
        return page_svg(text.getvalue(), name)


def page_svg(text: str, name: str) -> str:
    """Return matplotlib's SVG as part of a page: without header, with the page's font and text colour."""
    text = text[text.index('<svg') :]
    text = re.sub(r'<metadata>.*?</metadata>', '', text, flags=re.DOTALL)
    text = re.sub(r'<text style="', '<text style="fill:currentColor;', text)
    text = re.sub(r'(?:stroke|fill): #000000', lambda hit: f'{hit[0].split(":")[0]}: currentColor', text)
    text = re.sub(r"font(?:-family)?: ([^;\"]*?)'DejaVu Sans'[^;\"]*", r'font: \1system-ui, sans-serif', text)
    text = re.sub(
        r'<svg [^>]*?width="([\d.]+)pt"', lambda hit: hit[0].replace(f'width="{hit[1]}pt"', 'width="100%"'), text
    )
    text = re.sub(r'(<svg [^>]*?) height="[\d.]+pt"', r'\1', text, count=1)
    # ids are unique on the page
    text = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', text)
    text = re.sub(r'(href="#|url\(#)', rf'\1{name}-', text)
    return re.sub(r'\s*\n\s*', ' ', text)


def thin(*arrays: np.ndarray) -> list[np.ndarray]:
    """Return at most 300 points of arrays of the same length, evenly along the curve that they describe."""
    values = np.stack([np.asarray(array, dtype=np.float64) for array in arrays])
    if values.shape[1] <= MOST_POINTS:
        return list(values)
    ranges = np.maximum(np.ptp(values, axis=1, keepdims=True), 1e-12)
    length = np.cumsum(np.abs(np.diff(values / ranges, axis=1, prepend=values[:, :1] / ranges)).sum(0))
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], MOST_POINTS)))
    return list(values[:, chosen])


def lines(
    series: dict[str, tuple[Sequence, Sequence]], xlabel: str, ylabel: str, unit: bool = False, log: bool = False
) -> Callable:
    """Return a plot of lines by name; ``unit``: both axes from 0 to 1."""

    def plot(axes) -> None:
        for name, (x, y) in series.items():
            few = len(x) < 2
            axes.plot(*thin(np.asarray(x), np.asarray(y)), label=name, lw=1.4, marker='o' if few else None)
        axes.set(xlabel=xlabel, ylabel=ylabel)
        if unit:
            axes.set(xlim=(0, 1), ylim=(0, 1.02))
        if log:
            axes.set_yscale('log')
        if len(series) > 1:
            axes.legend(fontsize=8)

    return plot


def reliability(bins: list[dict]) -> Callable:
    """Return a plot of precision by confidence."""

    def plot(axes) -> None:
        axes.bar([row['low'] + 0.05 for row in bins], [row['precision'] for row in bins], 0.092, alpha=0.75)
        axes.plot([row['confidence'] for row in bins], [row['precision'] for row in bins], 'o', ms=3, color=COLOURS[1])
        axes.plot([0, 1], [0, 1], '--', lw=1, color='#888888')
        axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel='confidence', ylabel='precision')

    return plot


def bars(values: dict[str, float], ylabel: str) -> Callable:
    """Return a plot of bars by name; NaN has no bar, and a dash."""

    def plot(axes) -> None:
        shown = axes.bar(list(values), np.nan_to_num(list(values.values())), alpha=0.85)
        labels = ['–' if np.isnan(value) else f'{value:.3g}' for value in values.values()]
        axes.bar_label(shown, labels, fontsize=8)
        axes.set(ylabel=ylabel)
        axes.tick_params('x', labelrotation=30 if len(values) > 4 else 0)
        axes.grid(False, axis='x')

    return plot


def matrix(counts: np.ndarray, names: Sequence[str]) -> Callable:
    """Return a plot of a confusion matrix, normalised by row."""

    def plot(axes) -> None:
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        axes.imshow(share, cmap='Blues', vmin=0, vmax=1)
        axes.grid(False)
        axes.set(xlabel='predicted', ylabel='true')
        if len(names) <= 30:
            axes.set_xticks(range(len(names)), [*names[:-1], 'missed'], rotation=45, ha='right')
            axes.set_yticks(range(len(names)), [*names[:-1], 'background'])
        if len(names) <= 15:
            for (row, column), count in np.ndenumerate(counts):
                colour = 'white' if share[row, column] > 0.5 else 'black'
                axes.text(column, row, f'{count}', ha='center', va='center', fontsize=8, color=colour)

    return plot


def histogram(groups: dict[str, np.ndarray], xlabel: str, log: bool = False) -> Callable:
    """Return a plot of the shares of values in up to 30 bins, one outline a group; ``log``: of their logarithms."""

    def plot(axes) -> None:
        values = np.concatenate(list(groups.values()))
        low, high = values.min(), max(values.max(), values.min() + 1e-6)
        edges = np.geomspace(max(low, 1e-3), high, 31) if log else np.linspace(low, high, 31)
        for name, group in groups.items():
            weights = np.full(len(group), 1 / max(len(group), 1))
            axes.hist(group, edges, weights=weights, histtype='stepfilled', alpha=0.5, label=name)
        axes.set(xlabel=xlabel, ylabel='share of boxes')
        if log:
            axes.set_xscale('log')
        if len(groups) > 1:
            axes.legend(fontsize=8)

    return plot


def positions(centres: np.ndarray) -> Callable:
    """Return a plot of the density of relative centres (G, 2)."""

    def plot(axes) -> None:
        counts, _, _ = np.histogram2d(centres[:, 1], centres[:, 0], 24, ((0, 1), (0, 1)))
        axes.imshow(counts, cmap='viridis', extent=(0, 1, 1, 0), aspect='auto')
        axes.grid(False)
        axes.set(xlabel='x / width', ylabel='y / height')

    return plot
