"""One page for several runs: scores, curves, what changed from the first to each other run, costs and configs."""

import difflib
import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mmyolo_ext.evaluation.errors import find_errors
from mmyolo_ext.evaluation.matching import RECALLS, Matching, match_all
from mmyolo_ext.evaluation.report import figures as charts
from mmyolo_ext.evaluation.report import page as html_page
from mmyolo_ext.evaluation.report.gallery import Gallery, Shown
from mmyolo_ext.evaluation.report.page import caption, details, plots, table
from mmyolo_ext.evaluation.report.write import _write_json, read_report

IOUS = np.linspace(0.5, 0.95, 10)
SAMPLES = 1000  # of the bootstrap, fewer where that takes too long
MOST_WORK = 1e9  # detections and true positives of all thresholds x samples
MOST_OF_CLASS = 100  # detections of an image, as in COCO's evaluation
CHANGED_IMAGES = 8  # with the most objects fixed or broken
SCORES = {'ap': 'AP', 'ap50': 'AP50', 'ap75': 'AP75', 'ap_small': 'AP small', 'ap_medium': 'AP medium'}
SCORES |= {'ap_large': 'AP large'}
OF_ONE_RUN = re.compile(r'seed|work_dir|time|load_from')  # lines in which runs of one config differ


@dataclass
class Compared:
    """A run to compare.

    Args:
        name: Shown.
        folder: Of the run, or of its report.
        log: Rows of the scalars that MMEngine writes.
        config: Text of the config.
        cost: Figures by their titles, such as ``GFLOPs``.
    """

    name: str
    folder: Path
    log: list[dict] = field(default_factory=list)
    config: str = ''
    cost: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.ground_truth, self.detections, self.numbers = read_report(self.folder)

    @property
    def facts(self) -> dict[str, Any]:
        """What the report tells about the run."""
        return self.numbers.get('facts') or {}

    @property
    def confidence(self) -> float:
        """Of the operating point."""
        return self.numbers['operating_point']['confidence']

    @cached_property
    def matchings(self) -> list[Matching]:
        """Of each threshold in ``IOUS``; the first one is that of the report."""
        return match_all(self.ground_truth, self.detections, IOUS)

    @cached_property
    def gallery(self) -> Gallery:
        """Images at the operating point."""
        matching = self.matchings[0]
        return Gallery(self.ground_truth, matching, self.confidence, find_errors(matching, self.confidence))

    @cached_property
    def objects(self) -> list:
        """Images and boxes, to be compared with those of another run."""
        names = {category['id']: category['name'] for category in self.ground_truth['categories']}
        files = {image['id']: Path(image['file_name']).name for image in self.ground_truth['images']}
        return list(files.items()) + [
            (one['image_id'], names[one['category_id']], [round(value, 2) for value in one['bbox']])
            for one in self.ground_truth['annotations']
        ]


def write_comparison(folder: str | Path, runs: Sequence[Compared]) -> Path:
    """Write ``index.html``, ``comparison.json`` and charts into a folder.

    Returns:
        The path of ``index.html``.

    Raises:
        ValueError: With less than two runs.
    """
    if len(runs) < 2:
        raise ValueError(f'a comparison needs at least two runs, got {len(runs)}')
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    figures = charts.Figures(folder)
    first, *others = runs
    images = Shown()  # each is in the page once
    changes, numbers = [], {'runs': {run.name: _scores(run) for run in runs}, 'changes': {}}
    for run in others:
        if run.objects != first.objects:
            text = f'{run.name} was evaluated on other images or objects than {first.name}: only their scores compare.'
            changes.append(caption(text))
            continue
        answer = changes_between(first, run)
        numbers['changes'][run.name] = {name: value for name, value in answer.items() if name != 'objects'}
        changes.append(_changes(first, run, answer, images))
    sections = [
        ('scores', 'Scores', _score_table(runs)),
        ('curves', 'Curves', _curves(figures, runs)),
        ('cost', 'Cost', _cost_table(runs)),
        ('changes', 'Changes', ''.join(changes)),
        ('configs', 'Configs', _config_changes(runs)),
    ]
    title = 'Comparison of ' + ', '.join(run.name for run in runs)
    content = html_page.page(title, [section for section in sections if section[2]], style=images.style())
    (folder / 'index.html').write_text(content, encoding='utf-8')
    _write_json(folder / 'comparison.json', numbers)
    return folder / 'index.html'


def changes_between(first: Compared, other: Compared) -> dict[str, Any]:
    """Compare the detections of two runs on the same images.

    Returns:
        ``ap_difference``, other minus first, with its 95 % confidence ``interval`` and the number of bootstrap
        ``samples``; ``fixed``, ``broken``, ``found_by_both``, ``found_by_none``: counts of objects at the operating
        point of each run, IoU 0.5; ``objects``: (G,) int, 1 for a fixed one, -1 for a broken one, else 0.
    """
    sides = []
    for run in (first, other):
        matching = run.matchings[0]
        kept = matching.kept(run.confidence)
        found = np.zeros(len(matching.gt_label), bool)
        found[matching.partner[kept & (matching.partner >= 0)]] = True
        sides.append(found)
    regular = ~matching.gt_crowd
    before, after = sides
    difference, interval, samples = bootstrap(first, other)
    return {
        'ap_difference': difference,
        'interval': interval,
        'samples': samples,
        'fixed': int((after & ~before & regular).sum()),
        'broken': int((before & ~after & regular).sum()),
        'found_by_both': int((before & after & regular).sum()),
        'found_by_none': int((~before & ~after & regular).sum()),
        'objects': (after.astype(int) - before.astype(int)) * regular,
    }


def bootstrap(first: Compared, other: Compared, samples: int = SAMPLES) -> tuple[float, tuple[float, float], int]:
    """Return the difference in AP, its 95 % interval over resampled images, and the number of samples.

    The images are drawn with replacement, the same ones for both runs; the interval holds the middle 95 % of the
    differences (percentile bootstrap, Efron 1979).
    """
    matchings = first.matchings, other.matchings
    work = sum(len(side[0].score) + sum((one.partner >= 0).sum() for one in side) for side in matchings)
    samples = int(max(min(samples, MOST_WORK / max(work, 1)), 50))
    images = len(first.ground_truth['images'])
    draws = np.random.default_rng(0)
    weights = [np.ones(images)]
    weights += [np.bincount(draws.integers(0, images, images), minlength=images) for _ in range(samples)]
    values = np.array([_mean_aps(side, np.array(weights, np.float64)) for side in matchings])
    differences = values[1] - values[0]
    low, high = np.nanpercentile(differences[1:], [2.5, 97.5])
    return float(differences[0]), (float(low), float(high)), samples


def _mean_aps(matchings: Sequence[Matching], weights: np.ndarray) -> np.ndarray:
    """Return COCO's AP for each row of weights of the images, (S,), as if an image occurred as often as it weighs.

    Args:
        matchings: Of the same detections at each threshold.
        weights: (S, N).
    """
    first, per_class = matchings[0], []
    counted = _best_of_image(first)
    for label in np.flatnonzero(first.gt_counts):
        of_class = first.gt_image[~first.gt_crowd & (first.gt_label == label)]
        rows = np.flatnonzero(counted & (first.label == label))
        image = first.image[rows]
        # precision is highest at true positives: only there it is computed
        hits = [np.flatnonzero(one.partner[rows] >= 0) for one in matchings]
        ignored = [one.ignored[rows] if one.ignored[rows].any() else None for one in matchings]
        values = np.full((len(matchings), len(weights)), np.nan)
        for place, weight in enumerate(weights):
            objects = weight[of_class].sum()
            if objects:
                own = weight[image]
                seen = np.cumsum(own)
                for at, (true, left_out) in enumerate(zip(hits, ignored, strict=True)):
                    before = seen if left_out is None else np.cumsum(own * ~left_out)
                    values[at, place] = _weighted_ap(own[true], before[true], objects)
        per_class.append(values)
    return np.nanmean(per_class, axis=(0, 1)) if per_class else np.full(len(weights), np.nan)


def _best_of_image(matching: Matching) -> np.ndarray:
    """Return a mask (D,) of the 100 best detections of each image and class, those that COCO's evaluation reads."""
    order = np.lexsort((matching.label, matching.image))  # keeps the order of falling scores
    keys = np.stack([matching.image[order], matching.label[order]])
    is_first = np.append(True, (keys[:, 1:] != keys[:, :-1]).any(0))[: len(order)]
    places = np.arange(len(order))
    best = np.empty(len(order), dtype=bool)
    best[order] = places - np.maximum.accumulate(places * is_first) < MOST_OF_CLASS
    return best


def _weighted_ap(weight: np.ndarray, seen: np.ndarray, objects: float) -> float:
    """Return the AP of true positives with weights, where detections of the weights ``seen`` are up to each."""
    positives = np.cumsum(weight)
    precision = np.maximum.accumulate((positives / np.maximum(seen, 1e-12))[::-1])[::-1]
    places = np.searchsorted(positives / objects, RECALLS, side='left')
    return float(np.append(precision, 0)[places].mean())


def _scores(run: Compared) -> dict[str, Any]:
    point = run.numbers['operating_point']
    return {
        **{name: run.numbers.get(name) for name in SCORES},
        'confidence': point['confidence'],
        'precision': point['precision'],
        'recall': point['recall'],
        **{name: run.facts.get(name) for name in ('split', 'model', 'time', 'seed')},
        'cost': run.cost,
    }


def groups(runs: Sequence[Compared]) -> list[list[Compared]]:
    """Return the runs of each config, which differ in their seed alone; those without config are alone."""
    found: dict[str, list[Compared]] = {}
    for number, run in enumerate(runs):
        lines = [line for line in run.config.splitlines() if not OF_ONE_RUN.search(line)]
        found.setdefault('\n'.join(lines) or str(number), []).append(run)
    return list(found.values())


def _score_table(runs: Sequence[Compared]) -> str:
    head = ('run', *SCORES.values(), 'confidence', 'precision', 'recall', 'time', 'seed', 'model')
    rows = []
    for run in runs:
        values = _scores(run)
        keys = (*SCORES, 'confidence', 'precision', 'recall', 'time', 'seed', 'model')
        rows.append([run.name, *('' if values[key] is None else values[key] for key in keys)])
    for group in groups(runs):
        if len(group) > 1:
            columns = [[_scores(run)[key] for run in group] for key in SCORES]
            spread = [
                f'{np.mean(column):.3f} ± {np.std(column, ddof=1):.3f}' if None not in column else ''
                for column in columns
            ]
            rows.append([f'mean ± standard deviation of {len(group)} runs of one config', *spread, *[''] * 6])
    splits = sorted({str(run.facts.get('split', 'unknown')) for run in runs})
    text = f'{", ".join(splits)} split. AP by COCO; precision and recall at the operating point of each run, IoU 0.5.'
    return caption(text) + table(head, rows)


def _cost_table(runs: Sequence[Compared]) -> str:
    titles = list(dict.fromkeys(title for run in runs for title in run.cost))
    text = 'Of the network alone, without decoding and NMS, for one image; FLOPs are 2 x MACs.'
    rows = [[run.name, *(run.cost.get(title) for title in titles)] for run in runs]
    return caption(text) + table(('run', *titles), rows) if titles else ''


def _curves(figures: charts.Figures, runs: Sequence[Compared]) -> str:
    drawn = {}
    for title, key, log in (('AP of the validation.', 'bbox_mAP', False), ('Training loss.', 'loss', True)):
        series = {}
        for run in runs:
            rows = [row for row in run.log if any(name.split('/')[-1] == key for name in row)]
            values = [next(value for name, value in row.items() if name.split('/')[-1] == key) for row in rows]
            if rows:
                series[run.name] = [row.get('epoch', row.get('step')) for row in rows], values
        if series:
            drawn[title] = figures.draw(key, charts.lines(series, 'epoch', key, log=log))
    return plots(drawn) if drawn else ''


def _changes(first: Compared, run: Compared, answer: dict, images: Shown) -> str:
    """Return what changed, with images, which are added to those of the page."""
    low, high = answer['interval']
    verdict = 'beyond' if low > 0 or high < 0 else 'within'
    text = (
        f'AP {answer["ap_difference"]:+.4f} against {first.name}, 95 % interval {low:+.4f} to {high:+.4f} '
        f'({answer["samples"]} bootstrap samples of the images): {verdict} what the choice of images explains. '
        f'Objects at the operating points, IoU 0.5: {answer["fixed"]:,} fixed, {answer["broken"]:,} broken, '
        f'{answer["found_by_both"]:,} found by both, {answer["found_by_none"]:,} by none.'
    )
    parts = [f'<h3>{html.escape(run.name)}</h3>', caption(text)]
    changed = answer['objects']
    galleries = first.gallery, run.gallery
    for gallery in galleries:
        gallery.shown = images
    image = first.gallery.matching.gt_image
    for kind, sign in (('fixed', 1), ('broken', -1)):
        boxes = np.flatnonzero(changed == sign)
        counts = np.bincount(image[boxes], minlength=len(first.ground_truth['images']))
        worst = [place for place in np.argsort(-counts, kind='stable')[:CHANGED_IMAGES].tolist() if counts[place]]
        rows = ''.join(gallery.row(place, marked_gt=boxes) for place in worst for gallery in galleries)
        if rows:
            note = f'{len(boxes):,} objects, thick; the images with most, {first.name} left, {run.name} right'
            inside = f'<div class="images">{rows}</div>'
            parts.append(details(kind.capitalize(), inside, note, f'{kind}-{run.name}'))
    return ''.join(parts)


def _config_changes(runs: Sequence[Compared]) -> str:
    first, *others = runs
    parts = []
    for run in others:
        lines = difflib.unified_diff(
            first.config.splitlines(), run.config.splitlines(), first.name, run.name, lineterm='', n=2
        )
        text = '\n'.join(
            f'<mark>{html.escape(line)}</mark>' if line[:1] in '+-' else html.escape(line) for line in lines
        )
        parts.append(
            f'<h3>{html.escape(run.name)}</h3>' + (f'<pre>{text}</pre>' if text else caption('No difference.'))
        )
    return ''.join(parts) if any(run.config for run in runs) else ''
