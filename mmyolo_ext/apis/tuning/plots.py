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


def _draw_history(runs: list[Run], plan: Plan, target: Path) -> None:
    from matplotlib.ticker import MaxNLocator

    figure = _figure(11, 4.4)
    history, curves = figure.subplots(1, 2, sharey=True)
    _draw_scores(history, runs, plan)
    best = best_of(runs, plan.greater)
    for run in (run for run in runs if run.curve):
        colour, width, above = (PRUNED, 0.8, 1) if run.state != 'done' else (DONE, 1.0, 2)
        if run.number == 0:
            colour, width, above = DARK, 1.8, 3
        if run is best:
            colour, width, above = BEST, 2.2, 4
        name = {DARK: 'as it stands', BEST: f'best, trial {run.number}'}.get(colour)
        marker = 'o' if len(run.curve) < 20 else None
        axes_line = {'color': colour, 'linewidth': width, 'zorder': above, 'marker': marker, 'markersize': 3}
        curves.plot(list(run.curve), list(run.curve.values()), label=name, alpha=0.9, **axes_line)
    curves.set(title='each training; grey where it was pruned', xlabel=plan.unit)
    for axes in (history, curves):
        _tidy(axes)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.tick_params(labelleft=True)
        if axes.get_legend_handles_labels()[1]:
            axes.legend(frameon=False, fontsize=LEAST_LABEL)
    figure.savefig(target)


def _draw_scores(axes, runs: list[Run], plan: Plan) -> None:
    pick = max if plan.greater else min
    for state, colour, marker, size in (('done', DONE, 'o', 30), ('pruned', PRUNED, 'v', 22)):
        chosen = [run for run in runs if run.state == state]
        if chosen:
            name = 'trained to the end' if state == 'done' else 'pruned: best until then'
            points = [run.number for run in chosen], [run.score for run in chosen]
            axes.scatter(*points, s=size, marker=marker, color=colour, zorder=3, linewidths=0, label=name)
    failed = [run.number for run in runs if run.state == 'failed']
    if failed:  # they have no score: on the frame
        low = axes.get_xaxis_transform()
        axes.scatter(failed, [0.02] * len(failed), marker='x', s=26, color=FAILED, transform=low, label='failed')
    done = [run for run in runs if run.state == 'done']
    if done:
        best = [pick(run.score for run in done[: index + 1]) for index in range(len(done))]
        ends = [*(run.number for run in done), runs[-1].number]
        axes.step(ends, [*best, best[-1]], where='post', color=BEST, linewidth=1.6, zorder=2, label='best so far')
    if done and done[0].number == 0:
        axes.axhline(done[0].score, color=DARK, linestyle='--', linewidth=1, label='the config as it stands')
    axes.set(title='trials', xlabel='trial', ylabel=plan.metric)


def _draw_slices(runs: list[Run], plan: Plan, target: Path) -> None:
    names = short_names(plan.space)
    columns = min(COLUMNS, len(names))
    rows = math.ceil(len(names) / columns)
    figure = _figure(3.1 * columns + 0.6, 2.7 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).flatten()
    for key, axes in zip(names, grid, strict=False):
        _draw_slice(axes, runs, plan, key)
        axes.set_xlabel(names[key])
    for axes in grid[len(names) :]:
        axes.remove()
    for axes in grid[: len(names) : columns]:
        axes.set_ylabel(plan.metric)
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc='outside upper left', ncols=4, frameon=False, fontsize=9)
    figure.savefig(target)


def _draw_slice(axes, runs: list[Run], plan: Plan, key: str) -> None:
    parameter = plan.space[key]
    best = best_of(runs, plan.greater)

    def spots(chosen: list[Run]) -> tuple[list[Any], list[float]]:
        values = [run.values[key] for run in chosen]
        return [parameter.choices.index(v) for v in values] if parameter.choices else values, [r.score for r in chosen]

    pruned = spots([run for run in runs if run.state == 'pruned'])[0]
    done = [run for run in runs if run.state == 'done' and run is not best and run.number]
    # their scores are of earlier epochs and would press the others together: on the frame
    frame = {'transform': axes.get_xaxis_transform(), 'linewidths': 0, 'zorder': 3}
    axes.scatter(pruned, [0.025] * len(pruned), s=24, marker='^', color=PRUNED, alpha=0.7, label='pruned', **frame)
    axes.scatter(*spots(done), s=26, color=DONE, linewidths=0, label='trained to the end')
    first = [run for run in runs if run.number == 0 and run.score is not None]
    axes.scatter(*spots(first), s=46, marker='D', color=DARK, zorder=4, label='as it stands')
    axes.scatter(*spots([best] if best else []), s=130, marker='*', color=BEST, zorder=5, label='best')
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
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=parameter.whole))
        return
    few = parameter.high / parameter.low < 50  # between powers of ten there would be one label at most
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f'{value:g}'))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlim(parameter.low / 1.15, parameter.high * 1.15)


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
