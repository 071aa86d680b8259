"""A picture of boxes and priors.

Letters: G boxes, L levels, A priors of a level.
"""

from pathlib import Path

import numpy as np

from mmyolo_ext.apis.anchors.fitness import Rule

BOXES, BEFORE = '#8d99ae', '#22223b'
LEVELS = ('#1b7f79', '#e07a1f', '#d1495b', '#7a5195', '#1b4f8f')


def draw(boxes_wh: np.ndarray, before_wh: np.ndarray, after_wh: np.ndarray, rule: Rule, target: Path) -> None:
    """Sizes of boxes and priors on the left; on the right, how well the boxes are met before and after.

    Args:
        boxes_wh: (G, 2) px.
        before_wh: (L, A, 2) px; ``after_wh`` likewise.
        after_wh: see there.
        rule: by which they match.
        target: ``.png`` to write.
    """
    # late, for it is slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter

    figure = Figure(figsize=(11, 4.6), dpi=130, layout='constrained')
    FigureCanvasAgg(figure)
    sizes, shares = figure.subplots(1, 2)
    _draw_sizes(sizes, boxes_wh, before_wh, after_wh)
    for axis in (sizes.xaxis, sizes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(ScalarFormatter())
        axis.set_minor_formatter(NullFormatter())
    _draw_shares(shares, boxes_wh, {'before': before_wh, 'after': after_wh}, rule)
    for axes in (sizes, shares):
        axes.grid(alpha=0.25)
        axes.spines[['top', 'right']].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(target)


def _draw_sizes(axes, boxes_wh: np.ndarray, before_wh: np.ndarray, after_wh: np.ndarray) -> None:
    axes.scatter(*boxes_wh.T, s=4, alpha=0.25, color=BOXES, linewidths=0, label=f'{len(boxes_wh):,} boxes')
    axes.scatter(*before_wh.reshape(-1, 2).T, s=60, marker='x', color=BEFORE, label='priors before')
    for level, anchors_wh in enumerate(after_wh):
        colour = LEVELS[level % len(LEVELS)]
        axes.scatter(*anchors_wh.T, s=60, color=colour, edgecolors='white', label=f'priors after, level {level + 1}')
    axes.set(title='sizes at the network input', xlabel='width, px', ylabel='height, px', xscale='log', yscale='log')


def _draw_shares(axes, boxes_wh: np.ndarray, priors: dict[str, np.ndarray], rule: Rule) -> None:
    share = np.linspace(0, 1, len(boxes_wh))
    for (name, anchors_wh), style in zip(priors.items(), ('--', '-'), strict=True):
        best = np.sort(rule.resemblance(boxes_wh, anchors_wh.reshape(-1, 2)).max(1))
        axes.plot(share, best, style, color=BEFORE if name == 'before' else LEVELS[0], label=f'priors {name}')
    axes.axhline(rule.threshold, color=LEVELS[2], linewidth=1, label='below, a box teaches nothing')
    title = 'smallest ratio of sides' if rule.kind == 'ratio' else 'IoU of sizes'
    axes.set(title=f'{title} with the best prior', xlabel='share of the boxes', xlim=(0, 1), ylim=(0, 1))
