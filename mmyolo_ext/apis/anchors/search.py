"""Find priors: k-means on the sizes of the boxes, then small random changes of which the good ones are kept.

Letters: G boxes, K priors.
"""

import numpy as np
from scipy.cluster.vq import kmeans2

from mmyolo_ext.apis.anchors.fitness import Rule, score

STARTS = 5  # of k-means, which ends in the nearest dip
SHARE_CHANGED = 0.9  # of the sides, in one step
SPREAD = 0.1  # standard deviation of the factor
LEAST_FACTOR, MOST_FACTOR = 0.3, 3.0
MOST_BOXES = 20_000  # that the search looks at; more change the mean by less than it gains


def fit_priors(
    boxes_wh: np.ndarray, present_wh: np.ndarray, rule: Rule, generations: int = 1000, seed: int = 0
) -> np.ndarray:
    """As many priors as at present, sorted by area, (K, 2) px with one decimal.

    The search starts from the best of some runs of k-means and of the present priors, so that it ends no worse than
    these on the boxes that it looks at.

    Args:
        boxes_wh: (G, 2) px of the network input, positive.
        present_wh: (K, 2) px.
        rule: what counts as a match.
        generations: steps of the evolution.
        seed: the same gives the same priors.

    Raises:
        ValueError: fewer different sizes than priors.
    """
    count = len(present_wh)
    different = len(np.unique(boxes_wh, axis=0))
    if different < count:
        raise ValueError(f'{count} priors need at least {count} boxes of different sizes, the data have {different}')
    rng = np.random.default_rng(seed)
    if len(boxes_wh) > MOST_BOXES:
        boxes_wh = boxes_wh[rng.choice(len(boxes_wh), MOST_BOXES, replace=False)]
    starts = [present_wh, *(cluster(boxes_wh, count, rng) for _ in range(STARTS))]
    best = max(starts, key=lambda priors: score(boxes_wh, priors, rule).fitness)
    best = evolve(boxes_wh, best, rule, generations, rng).round(1)
    return best[np.argsort(best.prod(1), kind='stable')]


def cluster(boxes_wh: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """The centres of k-means, with each side in units of its spread; (count, 2) px.

    It starts as k-means++ does (Arthur and Vassilvitskii, 2007): each next centre is a box that is drawn with a chance
    in proportion to its squared distance from the nearest centre before.
    """
    spread = boxes_wh.std(0)
    spread[spread == 0] = 1.0
    points = boxes_wh / spread
    centres = points[[rng.integers(len(points))]]
    while len(centres) < count:
        distance = ((points[:, None] - centres[None]) ** 2).sum(-1).min(1)
        centres = np.concatenate([centres, points[[rng.choice(len(points), p=distance / distance.sum())]]])
    # our own start, for the name of SciPy's argument for a generator changes with its release
    centres, _ = kmeans2(points, centres, minit='matrix')
    return centres * spread


def evolve(
    boxes_wh: np.ndarray, anchors_wh: np.ndarray, rule: Rule, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Multiply random sides by random factors near 1, keep what has the greater fitness, and go on from there."""
    best, fitness = anchors_wh, score(boxes_wh, anchors_wh, rule).fitness
    for _ in range(generations):
        changed = rng.random(best.shape) < SHARE_CHANGED
        factors = 1 + changed * rng.normal(0, SPREAD, best.shape)
        child = best * factors.clip(LEAST_FACTOR, MOST_FACTOR)
        its = score(boxes_wh, child, rule).fitness
        if its > fitness:
            best, fitness = child, its
    return best
