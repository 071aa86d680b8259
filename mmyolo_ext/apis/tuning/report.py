"""What a search leaves: a table, the best values as a config, all trials as CSV."""

import csv
import io
import os
from pathlib import Path

from mmyolo_ext.apis.tuning.delta import delta_text
from mmyolo_ext.apis.tuning.memory import TABLE, Run, best_of
from mmyolo_ext.apis.tuning.plan import Plan
from mmyolo_ext.apis.tuning.words import gain_of, short_names, value_text

BEST = 'best.py'


def write_files(runs: list[Run], plan: Plan, folder: Path) -> list[Path]:
    """``trials.csv``, and ``best.py`` if anything is better than the config as it stands; the files written."""
    _write(folder / TABLE, csv_text(runs))
    best = best_of(runs, plan.greater)
    if best is None or best.number == 0:
        return [folder / TABLE]
    first = next((run for run in runs if run.number == 0 and run.state == 'done'), None)
    ended = sum(run.state in ('done', 'pruned', 'failed') for run in runs)
    stood = f', {first.score:.4f} as it stood' if first else ''
    notes = [f'Written by tools/tune.py: {plan.metric} {best.score:.4f}{stood}; trial {best.number} of {ended}.']
    on_top = [f'{key}={value!r}' for key, value in plan.options.items() if not key.startswith('default_hooks.check')]
    notes.append(f'Each training had also: {" ".join(on_top)}')
    chosen = {key: (plan.space[key], value) for key, value in best.values.items()}
    _write(folder / BEST, delta_text(plan.config, folder, chosen, notes))
    return [folder / TABLE, folder / BEST]


def csv_text(runs: list[Run]) -> str:
    """A line for each run: number, state, score, epochs, seconds, the values by their keys, why it failed."""
    keys = list(runs[0].values) if runs else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator='\n')
    writer.writerow(['trial', 'state', 'score', 'last_epoch', 'seconds', *keys, 'reason'])
    for run in runs:
        score = '' if run.score is None else run.score
        values = [run.values[key] for key in keys]
        writer.writerow(
            [run.number, run.state, score, max(run.curve, default=0), f'{run.seconds:.1f}', *values, run.reason]
        )
    return text.getvalue()


def table(runs: list[Run], plan: Plan) -> str:
    """All runs, the best first; the pruned ones after those that were trained to their end, then the rest."""
    order = ('done', 'pruned', 'failed', 'running', 'to go on')
    sign = -1 if plan.greater else 1
    ranked = sorted(runs, key=lambda run: (order.index(run.state), sign * (run.score or 0), run.number))
    names = short_names(plan.space)
    rows = [['trial', 'state', 'score', 'gain', 'epochs', *names.values(), '']]
    for run in ranked:
        gain = gain_of(run, runs)
        rows.append(
            [
                *(str(run.number), run.state, '' if run.score is None else f'{run.score:.4f}'),
                *('' if gain is None or run.number == 0 else f'{gain:+.4f}', str(max(run.curve, default=0))),
                *(value_text(run.values[key]) for key in names),
                run.reason,
            ]
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    lines = ['  '.join(cell.rjust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows]
    return '\n'.join(line.rstrip() for line in lines)


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_name(f'.{path.name}.part')
    part.write_text(text, encoding='utf-8')
    os.replace(part, path)
