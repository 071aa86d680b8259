"""Pictures of a search.

===================  ==================================================================================================
``history.png``      the score of each trial and the best until then; the scores of each training over its epochs
``importance.png``   how much of the differences between scores each parameter explains
``slices.png``       the score against each parameter
===================  ==================================================================================================
"""

import math
from pathlib import Path
from typing import Any

from mmyolo_ext.apis.tuning.importance import Importance
from mmyolo_ext.apis.tuning.memory import Run, best_of
from mmyolo_ext.apis.tuning.plan import Plan
from mmyolo_ext.apis.tuning.words import short_names

DARK, DONE, BEST, PRUNED, FAILED = '#22223b', '#1b7f79', '#e07a1f', '#8d99ae', '#d1495b'
COLUMNS = 4  # of slices
LEAST_LABEL = 8  # points
STANDS = 'the config as it stands'
BAND = 0.13  # of an axis' height, for trials without a score


def draw_all(runs: list[Run], plan: Plan, importance: Importance | None, folder: Path) -> list[Path]:
    """Draw what there is something to draw for; the files."""
    if not any(run.score is not None for run in runs):
        return []
    files = [folder / 'history.png', folder / 'slices.png']
    _draw_history(runs, plan, files[0])
    _draw_slices(runs, plan, files[1])
    if importance is not None:
        files.append(folder / 'importance.png')
        _draw_importance(importance, files[-1])
    return files


def _figure(width: float, height: float):
    # late, for it is slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=130, layout='constrained')
    FigureCanvasAgg(figure)
    return figure


def _tidy(axes) -> None:
    axes.grid(alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)


def _lower_edge(axes, low: float, high: float) -> None:
    """Scores stand above a band at the bottom, in which trials are marked that have none to compare."""
    from matplotlib.patches import Rectangle
    from matplotlib.ticker import AutoLocator

    class Above(AutoLocator):
        def tick_values(self, lowest: float, highest: float) -> list[float]:
            return [value for value in super().tick_values(lowest, highest) if value >= low - room]

    room = (high - low) * 0.05 or 0.05
    bottom = low - room - (high - low + 2 * room) * BAND / (1 - BAND)
    axes.set_ylim(bottom, high + room)
    axes.add_patch(Rectangle((0, 0), 1, BAND, color=PRUNED, alpha=0.15, linewidth=0, transform=axes.transAxes))
    axes.yaxis.set_major_locator(Above())


def _mark_in_band(axes, places: list, marker: str, colour: str, name: str) -> None:
    """Trials at these places of the horizontal axis, in the band of :func:`_lower_edge`."""
    line = {'linewidths': 1.5 if marker == 'x' else 0, 'zorder': 3, 'transform': axes.get_xaxis_transform()}
    height = BAND * (0.3 if marker == 'x' else 0.7)
    axes.scatter(places, [height] * len(places), s=24, marker=marker, color=colour, alpha=0.8, label=name, **line)


def _draw_history(runs: list[Run], plan: Plan, target: Path) -> None:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(11, 4.4)
    history, curves = figure.subplots(1, 2)
    _draw_scores(history, runs, plan)
    _draw_curves(curves, runs, plan)
    for axes in (history, curves):
        _tidy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.legend(frameon=False, fontsize=LEAST_LABEL, loc='upper center', bbox_to_anchor=(0.5, -0.13), ncols=3)
    figure.savefig(target)


def _draw_scores(axes, runs: list[Run], plan: Plan) -> None:
    pick = max if plan.greater else min
    done, best = [run for run in runs if run.state == 'done'], best_of(runs, plan.greater)
    for state, colour, marker, size in (('done', DONE, 'o', 30), ('pruned', PRUNED, 'v', 22)):
        chosen = [run for run in runs if run.state == state and run.score is not None]
        if chosen:
            name = 'trained to the end' if state == 'done' else 'pruned: best until then'
            points = [run.number for run in chosen], [run.score for run in chosen]
            axes.scatter(*points, s=size, marker=marker, color=colour, zorder=3, linewidths=0, label=name)
    failed = [run.number for run in runs if run.state == 'failed']
    if failed:
        scores = [run.score for run in runs if run.score is not None]
        _lower_edge(axes, min(scores), max(scores))
        _mark_in_band(axes, failed, 'x', FAILED, 'failed: no score')
    if done:
        until = [pick(run.score for run in done[: index + 1]) for index in range(len(done))]
        ends = [*(run.number for run in done), runs[-1].number]
        axes.step(ends, [*until, until[-1]], where='post', color=BEST, linewidth=1.6, zorder=2, label='best so far')
        axes.scatter(best.number, best.score, s=130, marker='*', color=BEST, zorder=4, label=_name_of(best))
    _draw_present(axes, runs)
    axes.set(title='trials', xlabel='trial', ylabel=plan.metric)


def _draw_curves(axes, runs: list[Run], plan: Plan) -> None:
    best = best_of(runs, plan.greater)
    names = {'done': 'trained to the end', 'pruned': 'pruned'}
    for run in (run for run in runs if run.curve):
        colour, width, above = (DONE, 1.0, 2) if run.state == 'done' else (PRUNED, 0.8, 1)
        if run is best:
            colour, width, above, name = BEST, 2.2, 4, _name_of(best)
        elif run.number == 0:
            colour, width, above, name = DARK, 1.8, 3, STANDS
        else:
            name = names.pop(run.state, None)
        marker = 'o' if len(run.curve) < 20 else None
        look = {'color': colour, 'linewidth': width, 'zorder': above, 'marker': marker, 'markersize': 3}
        axes.plot(list(run.curve), list(run.curve.values()), label=name, alpha=0.9, **look)
    axes.set(title='scores of each training', xlabel=plan.unit, ylabel=plan.metric)


def _name_of(best: Run) -> str:
    return f'best: {STANDS if best.number == 0 else f"trial {best.number}"}'


def _draw_present(axes, runs: list[Run], label: str | None = STANDS) -> None:
    for run in runs:
        if run.number == 0 and run.state == 'done':
            axes.axhline(run.score, color=DARK, linestyle='--', linewidth=1, zorder=1, label=label)


def _draw_slices(runs: list[Run], plan: Plan, target: Path) -> None:
    names = short_names(plan.space)
    rows = math.ceil(len(names) / COLUMNS)
    columns = math.ceil(len(names) / rows)
    figure = _figure(3.1 * columns + 0.6, 2.7 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    scores = [run.score for run in runs if run.state == 'done'] or [0.0, 1.0]
    for key, axes in zip(names, grid, strict=False):
        _lower_edge(axes, min(scores), max(scores))
        _draw_slice(axes, runs, plan, key)
        axes.set_xlabel(names[key])
    for axes in grid[len(names) :]:
        axes.remove()
    for axes in grid[: len(names) : columns]:
        axes.set_ylabel(plan.metric)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper left', ncols=5 * columns // 3, frameon=False, fontsize=9)
    figure.savefig(target)


def _draw_slice(axes, runs: list[Run], plan: Plan, key: str) -> None:
    parameter = plan.space[key]
    best = best_of(runs, plan.greater)

    def spots(chosen: list[Run]) -> tuple[list[Any], list[float]]:
        values = [run.values[key] for run in chosen]
        return [parameter.choices.index(v) for v in values] if parameter.choices else values, [r.score for r in chosen]

    done = [run for run in runs if run.state == 'done' and run is not best and run.number]
    axes.scatter(*spots(done), s=26, color=DONE, linewidths=0, zorder=3, label='trained to the end')
    first = [run for run in runs if run.number == 0 and run.state == 'done']
    axes.scatter(*spots(first), s=46, marker='D', color=DARK, zorder=4, label=STANDS)
    _draw_present(axes, runs, label=None)
    if best:
        axes.scatter(*spots([best]), s=130, marker='*', color=BEST, zorder=5, label=_name_of(best))
    # scores of pruned ones are of earlier epochs and would press the others together
    for state, marker, colour in (('pruned', '^', PRUNED), ('failed', 'x', FAILED)):
        places = spots([run for run in runs if run.state == state])[0]
        if places:
            _mark_in_band(axes, places, marker, colour, f'{state}: no final score')
    if parameter.choices:
        labels = [str(choice) for choice in parameter.choices]
        axes.set_xticks(range(len(labels)), labels, rotation=20 if max(map(len, labels)) > 6 else 0)
        axes.set_xlim(-0.5, len(labels) - 0.5)
    else:
        axes.set_xscale('log' if parameter.log else 'linear')
        _plain_ticks(axes, parameter)
    _tidy(axes)


def _plain_ticks(axes, parameter) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    if not parameter.log:
        margin = (parameter.high - parameter.low) * 0.04
        axes.set_xlim(parameter.low - margin, parameter.high + margin)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=parameter.whole, steps=[1, 2, 5, 10]))
        return
    span = parameter.high / parameter.low  # some labels, whether it is of tens or of thousands
    between = (1, 2, 5) if span < 50 else (1, 3) if span < 1000 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=between))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(parameter.low / span**0.04, parameter.high * span**0.04)


def _draw_importance(importance: Importance, target: Path) -> None:
    shares = dict(sorted(importance.shares.items(), key=lambda item: item[1]))
    names = short_names(shares)
    figure = _figure(7.5, 0.36 * len(shares) + 1.3)
    axes = figure.subplots()
    bars = axes.barh([names[key] for key in shares], list(shares.values()), color=DONE, height=0.65)
    axes.bar_label(bars, fmt='{:.2f}', padding=3, fontsize=9)
    axes.set(xlabel=importance.meaning, title=importance.title, xlim=(0, max([*shares.values(), 0.01]) * 1.12))
    axes.grid(axis='x', alpha=0.25)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right', 'left']].set_visible(False)
    axes.tick_params(left=False)
    figure.savefig(target)
