"""What a search says: names of keys, durations, one line for each run."""

from collections.abc import Iterable
from typing import Any

from mmyolo_ext.apis.tuning.memory import Run, best_of
from mmyolo_ext.apis.tuning.plan import Effort, Plan


def short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last word of each key, and as many more before it as tell it from the others; a type always."""
    parts = {key: key.replace('...', '.').split('.') for key in keys}
    names = {}
    for key, words in parts.items():
        for count in range(1, len(words) + 1):
            end = words[-count:]
            of_a_type = count < len(words) and words[-count - 1][:1].isupper()
            if not of_a_type and not end[0].isdigit() and sum(o[-count:] == end for o in parts.values()) == 1:
                break
        names[key] = '.'.join(end)
    return names


def duration(seconds: float) -> str:
    """``45 s``, ``12 min``, ``3 h 20 min``."""
    if seconds < 90:
        return f'{seconds:.0f} s'
    minutes = round(seconds / 60)
    return f'{minutes} min' if minutes < 90 else f'{minutes // 60} h {minutes % 60:02} min'


def value_text(value: Any) -> str:
    """A value in four digits."""
    return f'{value:.4g}' if isinstance(value, float) else str(value)


def ended(runs: list[Run], number: int, plan: Plan, effort: Effort) -> str:
    """One line on the run that has just ended, and how long the others will take."""
    run = next(run for run in runs if run.number == number)
    told = f'trial {number}' + (' (the config as it stands)' if number == 0 else '')
    if run.state == 'failed':
        told += f': failed: {run.reason.rstrip(".")}'
    elif run.state == 'pruned':
        told += f': pruned at {max(run.curve)} of {plan.length} with {run.score:.4f}'
    else:
        told += f': {plan.metric} {run.score:.4f}'
        gain = gain_of(run, runs)
        told += '' if gain is None or number == 0 else f' ({gain:+.4f})'
        told += ', the best so far' if run is best_of(runs, plan.greater) and number else ''
    remaining = effort.trials - sum(run.state in ('done', 'pruned', 'failed') for run in runs)
    whole = [other.seconds for other in runs if other.state == 'done']
    rest = ''
    if remaining > 0 and whole:
        rounds = -(-remaining // effort.jobs)
        rest = f'; {remaining} to come, {duration(rounds * sum(whole) / len(whole))} at most'
    values = f'\n  {values_text(run)}' if number else ''
    return f'{told}, {duration(run.seconds)}{rest}{values}'


def values_text(run: Run) -> str:
    """``lr 0.012, scale 0.4``."""
    names = short_names(run.values)
    return ', '.join(f'{names[key]} {value_text(value)}' for key, value in run.values.items())


def gain_of(run: Run, runs: list[Run]) -> float | None:
    """Its score less that of the config as it stands; None if one of them was not trained to its end."""
    first = next((run for run in runs if run.number == 0 and run.state == 'done'), None)
    return run.score - first.score if first and run.state == 'done' else None
