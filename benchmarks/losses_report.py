"""The table and the plot of ``losses.py``, from the figures it kept."""

import statistics
from collections import defaultdict
from pathlib import Path

BEGIN, END = '<!-- losses:begin -->', '<!-- losses:end -->'
COLUMNS = {
    'bbox_mAP': 'AP',
    'bbox_mAP_50': 'AP50',
    'RBC_precision': 'AP of RBC',
    'WBC_precision': 'AP of WBC',
    'Platelets_precision': 'AP of platelets',
}
Groups = dict[tuple[str, str], list[dict]]  # (loss, gain) -> the figures of each seed


def write_report(results: dict[str, dict], root: Path) -> None:
    """Replace the table in ``docs/losses.md`` and draw ``docs/images/losses_bccd.png``."""
    groups: Groups = defaultdict(list)
    for entry, figures in sorted(results.items()):
        name, gain, _ = entry.split('/')
        groups[name, gain].append(figures)
    page = root / 'docs/losses.md'
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f'{before}{BEGIN}\n{table(groups)}\n{END}{after}')
    draw(groups, root / 'docs/images/losses_bccd.png')


def table(groups: Groups) -> str:
    """Mean and standard deviation over the seeds; the best AP first."""
    ranked = sorted(groups.items(), key=lambda item: -mean_and_spread(item[1], 'bbox_mAP')[0])
    lines = [f'| loss | gain | seeds | {" | ".join(COLUMNS.values())} |', f'|---|---|---|{"---|" * len(COLUMNS)}']
    for (name, gain), runs in ranked:
        cells = [cell(*mean_and_spread(runs, column)) for column in COLUMNS]
        lines.append(f'| {name} | {gain} | {len(runs)} | {" | ".join(cells)} |')
    return '\n'.join(lines)


def mean_and_spread(runs: list[dict], column: str) -> tuple[float, float | None]:
    """Mean and standard deviation, which one run alone does not have."""
    values = [run[f'coco/{column}'] for run in runs]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None


def cell(mean: float, spread: float | None) -> str:
    return f'{mean:.3f}' if spread is None else f'{mean:.3f} ± {spread:.3f}'


def draw(groups: Groups, target: Path) -> None:
    """A dot for each run, a bar for the mean."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    ranked = sorted(groups.items(), key=lambda item: mean_and_spread(item[1], 'bbox_mAP')[0])
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.2 + 0.28 * len(ranked)), sharey=True, layout='constrained')
    for axis, column in zip(axes, ('bbox_mAP', 'bbox_mAP_50'), strict=True):
        for row, (_, runs) in enumerate(ranked):
            values = [run[f'coco/{column}'] for run in runs]
            axis.scatter(values, [row] * len(values), s=22, color='#1b7f79', alpha=0.8, linewidths=0)
            axis.scatter(statistics.mean(values), row, s=140, color='#22223b', marker='|')
        axis.set_xlabel(f'{COLUMNS[column]} on the 72 test pictures')
        axis.grid(axis='x', alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].set_yticks(range(len(ranked)), [f'{name}, gain {gain}' for (name, gain), _ in ranked])
    figure.savefig(target, dpi=120)
