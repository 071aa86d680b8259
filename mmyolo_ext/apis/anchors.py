"""Fit anchors to the boxes of a dataset by k-means and a random search, and write a config with them.

Letters: G boxes, K anchors of all levels, L levels, A anchors per level.
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.registry import init_default_scope
from scipy.cluster.vq import kmeans2
from torch import nn

from mmyolo_ext.apis.config_nodes import kind, leaf_datasets
from mmyolo_ext.apis.start import check_work_dir
from mmyolo_ext.checkpoint.config_text import base_text
from mmyolo_ext.registry import DATASETS, MODELS

MIN_SIDE = 2.0  # px; training drops boxes with a side of at most this
STARTS = 5  # runs of k-means, each of which ends in a local optimum
MUTATED_SHARE = 0.9  # of the sides, in one generation
MUTATION_STD = 0.1  # of the factor
MIN_FACTOR, MAX_FACTOR = 0.3, 3.0
MAX_BOXES = 20_000  # in the search; more change the mean by less than the search gains


class Rule(NamedTuple):
    """The matching rule of a head: a box and an anchor match if their similarity is above ``threshold``.

    Attributes:
        kind: ``'ratio'``: the similarity is min(w/w_a, w_a/w, h/h_a, h_a/h), the inverse of YOLOv5's largest ratio of
            sides; ``'iou'``: the IoU of the sizes, as YOLOv3 matches. Both are 1 for equal sizes.
        threshold: From 0 to 1.
    """

    kind: str = 'ratio'
    threshold: float = 1 / 4.0

    def __str__(self) -> str:
        if self.kind == 'ratio':
            return f'an anchor matches a box if the ratio of their sides is below {1 / self.threshold:g}'
        return f'an anchor matches a box if the IoU of their sizes is above {self.threshold:g}'

    def similarity(self, boxes_wh: np.ndarray, anchors_wh: np.ndarray) -> np.ndarray:
        """Return the similarity (G, K) of sizes (G, 2) and (K, 2)."""
        smaller = np.minimum(boxes_wh[:, None], anchors_wh[None])
        if self.kind == 'ratio':
            return (smaller / np.maximum(boxes_wh[:, None], anchors_wh[None])).min(-1)
        overlap = smaller.prod(-1)
        return overlap / (boxes_wh.prod(-1)[:, None] + anchors_wh.prod(-1)[None] - overlap)


class Scores(NamedTuple):
    """How well anchors fit boxes.

    Attributes:
        recall: Share of the boxes that match an anchor (best possible recall).
        fitness: Mean over the boxes of the highest similarity, 0 for a box without a match.
        matches: Mean number of anchors that match a box.
    """

    recall: float
    fitness: float
    matches: float


class BoxSizes(NamedTuple):
    """The boxes of the training data: (G, 2) px of the network input, and counts.

    Attributes:
        wh: (G, 2) px.
        num_images: Number of images.
        num_tiny: Boxes left out, with a side of at most 2 px.
        size_hw: Height and width of the network input, px.
    """

    wh: np.ndarray
    num_images: int
    num_tiny: int
    size_hw: tuple[int, int]


class Fit(NamedTuple):
    """Anchors (L, A, 2) px before and after, their scores, and the written files, if the new anchors are better."""

    boxes: BoxSizes
    rule: Rule
    strides: tuple[int, ...]
    before_wh: np.ndarray
    after_wh: np.ndarray
    before: Scores
    after: Scores
    files: tuple[Path, ...] = ()


def fit_config(
    cfg: Config, config: Path, out: Path, generations: int = 1000, seed: int = 0, force: bool = False
) -> Fit:
    """Fit the anchors of a config to its training boxes; write a config and a plot if their fitness is higher.

    Args:
        cfg: Config read by ``load_config``.
        config: Its file, which becomes the ``_base_`` of the written one.
        out: ``.py`` file to write; the plot is next to it, as ``.png``.
        generations: See :func:`fit_anchors`.
        seed: See :func:`fit_anchors`.
        force: Overwrite existing files.

    Raises:
        ValueError: If there are too few boxes, if the head has no anchors, or if a file exists already.
    """
    files = (out, out.with_suffix('.png'))
    existing = [str(file) for file in files if file.exists()]
    if existing and not force:
        raise ValueError(f'{", ".join(existing)} exists already: --force overwrites it')
    if out.resolve() == config.resolve():
        raise ValueError(f'{out} is the config itself: choose another name by --out')
    init_default_scope(cfg.get('default_scope', 'mmdet'))
    before_wh, strides, rule = anchors_of(MODELS.build(cfg.model))
    boxes = box_sizes(cfg)
    present = before_wh.reshape(-1, 2)
    found = fit_anchors(boxes.wh, present, rule, generations, seed)
    before, after = (score(boxes.wh, anchors, rule) for anchors in (present, found))
    if after.fitness <= before.fitness:
        return Fit(boxes, rule, strides, before_wh, before_wh, before, before)
    fit = Fit(boxes, rule, strides, before_wh, assign_to_levels(found, strides), before, after, files)
    check_work_dir(str(out.parent))
    plot(fit, files[1])
    out.write_text(config_text(fit, config, out), encoding='utf-8')
    return fit


def anchors_of(model: nn.Module) -> tuple[np.ndarray, tuple[int, ...], Rule]:
    """Return the anchors (L, A, 2) px, the strides and the matching rule of a detector.

    Raises:
        ValueError: If the detector is not a YOLOv5 or YOLOv3.
    """
    head = getattr(model, 'bbox_head', None)
    anchors_wh = getattr(head, 'anchors_wh', None)
    if anchors_wh is None:
        raise ValueError(f'the head must be a YOLOv5Head or YOLOv3Head with anchors, got {type(head).__name__}')
    iou, ratio = (getattr(head.assigner, name, None) for name in ('iou_thr', 'prior_match_thr'))
    rule = Rule('iou', iou) if iou is not None else Rule('ratio', 1 / ratio) if ratio else Rule()
    return anchors_wh.double().cpu().numpy(), tuple(head.strides), rule


def box_sizes(cfg: Config) -> BoxSizes:
    """Return the box sizes of the training data at the network input, without crowds; no image is opened.

    Images are scaled as in the test pipeline, which is the middle of the scales of training.

    Raises:
        ValueError: If there are no boxes, or if the test pipeline does not scale images to one size.
    """
    size_hw = input_size_hw(cfg)
    sizes, num_images = [], 0
    for leaf in leaf_datasets(cfg.train_dataloader.dataset):
        dataset = DATASETS.build({**leaf, 'pipeline': []})
        num_images += len(dataset)
        for info in (dataset.get_data_info(index) for index in range(len(dataset))):
            factor = min(size_hw[0] / info['height'], size_hw[1] / info['width'])
            boxes = [instance['bbox'] for instance in info['instances'] if not instance.get('ignore_flag')]
            sizes += [((x2 - x1) * factor, (y2 - y1) * factor) for x1, y1, x2, y2 in boxes]
    wh = np.array(sizes).reshape(-1, 2)
    large = (wh > MIN_SIDE).all(1)
    if not large.any():
        raise ValueError(
            f'none of the {len(wh)} boxes in {num_images} training images has sides above {MIN_SIDE:g} px at an input '
            f'of {size_hw[1]} x {size_hw[0]} px: choose a larger input_size'
        )
    return BoxSizes(wh[large], num_images, int((~large).sum()), size_hw)


def input_size_hw(cfg: Config) -> tuple[int, int]:
    """Return height and width of the network input, from the test pipeline.

    Raises:
        ValueError: If it has neither a ``Letterbox`` nor a ``Resize`` with ``keep_ratio``.
    """
    steps = next(leaf_datasets(cfg.test_dataloader.dataset)).pipeline
    for step in steps:
        if kind(step) == 'Letterbox':
            return tuple(step['size_hw'])
        if kind(step) == 'Resize' and step.get('keep_ratio') and 'scale' in step:
            return tuple(step['scale'])[::-1]
    raise ValueError(
        'the test pipeline must scale images by mmyolo_ext.Letterbox, or by Resize with keep_ratio=True, '
        f'got {[str(step["type"]) for step in steps]}'
    )


def score(boxes_wh: np.ndarray, anchors_wh: np.ndarray, rule: Rule) -> Scores:
    """Score anchors (K, 2) on at least one box (G, 2)."""
    similarity = rule.similarity(boxes_wh, anchors_wh)
    best, matches = similarity.max(1), similarity > rule.threshold
    fitness = np.where(best > rule.threshold, best, 0.0).mean()
    return Scores(float((best > rule.threshold).mean()), float(fitness), float(matches.sum(1).mean()))


def fit_anchors(
    boxes_wh: np.ndarray, present_wh: np.ndarray, rule: Rule, generations: int = 1000, seed: int = 0
) -> np.ndarray:
    """Return as many anchors as at present, sorted by area, (K, 2) px with one decimal.

    The search starts from the best of several runs of k-means and of the present anchors, so that it ends no worse
    than these on the boxes of the search.

    Args:
        boxes_wh: (G, 2) px of the network input, positive.
        present_wh: (K, 2) px.
        rule: What counts as a match.
        generations: Steps of the random search.
        seed: Of the search; equal seeds give equal anchors.

    Raises:
        ValueError: If there are fewer different box sizes than anchors.
    """
    count = len(present_wh)
    different = len(np.unique(boxes_wh, axis=0))
    if different < count:
        raise ValueError(f'{count} anchors need at least {count} boxes of different sizes, the data have {different}')
    rng = np.random.default_rng(seed)
    if len(boxes_wh) > MAX_BOXES:
        boxes_wh = boxes_wh[rng.choice(len(boxes_wh), MAX_BOXES, replace=False)]
    starts = [present_wh, *(cluster(boxes_wh, count, rng) for _ in range(STARTS))]
    best = max(starts, key=lambda anchors: score(boxes_wh, anchors, rule).fitness)
    best = evolve(boxes_wh, best, rule, generations, rng).round(1)
    return best[np.argsort(best.prod(1), kind='stable')]


def cluster(boxes_wh: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return the centres (count, 2) px of k-means on sides divided by their standard deviation.

    The start is that of k-means++ (Arthur and Vassilvitskii, 2007): each next centre is a box drawn with a probability
    proportional to its squared distance from the nearest centre.
    """
    std = boxes_wh.std(0)
    std[std == 0] = 1.0
    points = boxes_wh / std
    centres = points[[rng.integers(len(points))]]
    while len(centres) < count:
        distance = ((points[:, None] - centres[None]) ** 2).sum(-1).min(1)
        centres = np.concatenate([centres, points[[rng.choice(len(points), p=distance / distance.sum())]]])
    # not SciPy's own start: the name of its argument for a generator depends on the release
    centres, _ = kmeans2(points, centres, minit='matrix')
    return centres * std


def evolve(
    boxes_wh: np.ndarray, anchors_wh: np.ndarray, rule: Rule, generations: int, rng: np.random.Generator
) -> np.ndarray:
    """Multiply random sides by random factors near 1 in each generation, and keep what has a higher fitness."""
    best, fitness = anchors_wh, score(boxes_wh, anchors_wh, rule).fitness
    for _ in range(generations):
        mutated = rng.random(best.shape) < MUTATED_SHARE
        factors = 1 + mutated * rng.normal(0, MUTATION_STD, best.shape)
        child = best * factors.clip(MIN_FACTOR, MAX_FACTOR)
        child_fitness = score(boxes_wh, child, rule).fitness
        if child_fitness > fitness:
            best, fitness = child, child_fitness
    return best


def assign_to_levels(anchors_wh: np.ndarray, strides: tuple[int, ...]) -> np.ndarray:
    """Group anchors (L * A, 2), sorted by area, by level (L, A, 2): the smallest for the smallest stride."""
    by_size = anchors_wh.reshape(len(strides), -1, 2)
    levels = np.empty_like(by_size)
    levels[np.argsort(strides, kind='stable')] = by_size
    return levels


def config_text(fit: Fit, config: Path, out: Path) -> str:
    """Return the text of a config that replaces the anchors of another one."""
    base = base_text(config, out.parent)
    levels = [
        str([tuple(int(side) if side == int(side) else side for side in anchor) for anchor in level.tolist()])
        for level in fit.after_wh
    ]
    sizes = ',\n                '.join(levels)
    return f"""# Written by tools/anchors.py: best possible recall {fit.before.recall:.4f} -> {fit.after.recall:.4f}, \
mean fitness {fit.before.fitness:.4f} -> {fit.after.fitness:.4f}
_base_ = [{base!r}]

model = dict(
    bbox_head=dict(
        prior_generator=dict(
            type='mmdet.YOLOAnchorGenerator',
            base_sizes=[
                {sizes},
            ],
            strides={list(fit.strides)},
        ),
    ),
)
"""


def plot(fit: Fit, target: Path) -> None:
    """Plot the sizes of boxes and anchors, and the similarity of each box to its best anchor, before and after."""
    # matplotlib is slow to import
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.6), dpi=130, layout='constrained')
    FigureCanvasAgg(figure)
    sizes, shares = figure.subplots(1, 2)
    boxes_wh = fit.boxes.wh
    sizes.scatter(*boxes_wh.T, s=4, alpha=0.25, color='grey', label=f'{len(boxes_wh):,} boxes')
    sizes.scatter(*fit.before_wh.reshape(-1, 2).T, s=60, marker='x', color='black', label='anchors before')
    for level, anchors_wh in enumerate(fit.after_wh, 1):
        sizes.scatter(*anchors_wh.T, s=60, edgecolors='white', label=f'anchors after, level {level}')
    sizes.set(title='sizes at the network input', xlabel='width, px', ylabel='height, px', xscale='log', yscale='log')
    share = np.linspace(0, 1, len(boxes_wh))
    for name, anchors_wh, style in (('before', fit.before_wh, 'k--'), ('after', fit.after_wh, 'C0-')):
        best = np.sort(fit.rule.similarity(boxes_wh, anchors_wh.reshape(-1, 2)).max(1))
        shares.plot(share, best, style, label=f'anchors {name}')
    shares.axhline(fit.rule.threshold, color='C3', linewidth=1, label='threshold of a match')
    title = 'smallest ratio of sides' if fit.rule.kind == 'ratio' else 'IoU of sizes'
    shares.set(title=f'{title} with the best anchor', xlabel='share of the boxes', xlim=(0, 1), ylim=(0, 1))
    for axes in (sizes, shares):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False, fontsize=8)
    figure.savefig(target)
