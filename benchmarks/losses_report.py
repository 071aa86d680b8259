"""Write the table and the plot of ``losses.py`` from its figures."""

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
REFERENCE = ('bce', '0.5')  # compared with the others seed by seed
Groups = dict[tuple[str, str], dict[str, dict]]  # (loss, gain) -> seed -> figures


def write_report(results: dict[str, dict], root: Path) -> None:
    """Replace the table in ``docs/guides/losses.md`` and draw ``docs/images/losses_bccd.png``."""
    groups: Groups = defaultdict(dict)
    for entry, figures in sorted(results.items()):
        name, gain, seed = entry.split('/')
        groups[name, gain][seed] = figures
    page = root / 'docs/guides/losses.md'
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f'{before}{BEGIN}\n{table(groups)}\n{END}{after}')
    draw(groups, root / 'docs/images/losses_bccd.png')


def table(groups: Groups) -> str:
    """Return mean and standard deviation over the seeds, best AP first, and AP minus that of BCE, seed by seed."""
    head = ['loss', 'gain', 'seeds', *COLUMNS.values(), "AP less BCE's, same seed"]
    lines = [f'| {" | ".join(head)} |', f'|{"---|" * len(head)}']
    for (name, gain), runs in ranking(groups):
        cells = [cell(values(runs, column)) for column in COLUMNS]
        shared = sorted(runs.keys() & groups[REFERENCE].keys())
        less = [runs[seed]['coco/bbox_mAP'] - groups[REFERENCE][seed]['coco/bbox_mAP'] for seed in shared]
        last = '' if (name, gain) == REFERENCE else cell(less, '+.3f')
        lines.append(f'| {" | ".join([name, gain, str(len(runs)), *cells, last])} |')
    return '\n'.join(lines)


def ranking(groups: Groups) -> list[tuple[tuple[str, str], dict[str, dict]]]:
    """Sort by mean AP, best first."""
    return sorted(groups.items(), key=lambda item: -statistics.mean(values(item[1], 'bbox_mAP')))


def values(runs: dict[str, dict], column: str) -> list[float]:
    return [run[f'coco/{column}'] for run in runs.values()]


def cell(numbers: list[float], form: str = '.3f') -> str:
    """Format mean and standard deviation, the latter for more than one run."""
    spread = f' ± {statistics.stdev(numbers):.3f}' if len(numbers) > 1 else ''
    return f'{statistics.mean(numbers):{form}}{spread}'


def draw(groups: Groups, target: Path) -> None:
    """Draw a dot for each run and a bar for the mean."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    ranked = ranking(groups)[::-1]
    figure, axes = plt.subplots(1, 2, figsize=(9, 1.2 + 0.28 * len(ranked)), sharey=True, layout='constrained')
    for axis, column in zip(axes, ('bbox_mAP', 'bbox_mAP_50'), strict=True):
        for row, (_, runs) in enumerate(ranked):
            dots = values(runs, column)
            axis.scatter(dots, [row] * len(dots), s=22, color='#1b7f79', alpha=0.8, linewidths=0)
            axis.scatter(statistics.mean(dots), row, s=140, color='#22223b', marker='|')
        axis.set_xlabel(f'{COLUMNS[column]} on the 72 test images')
        axis.grid(axis='x', alpha=0.3)
        axis.spines[['top', 'right']].set_visible(False)
    axes[0].set_yticks(range(len(ranked)), [f'{name}, gain {gain}' for (name, gain), _ in ranked])
    figure.savefig(target, dpi=120)
