"""Write the report of a run: one page that opens offline, with its numbers and charts as files beside it."""

import csv
import html
import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config

from mmyolo_ext.evaluation.errors import TYPES
from mmyolo_ext.evaluation.matching import match
from mmyolo_ext.evaluation.report import figures as charts
from mmyolo_ext.evaluation.report import page as html_page
from mmyolo_ext.evaluation.report.gallery import Gallery
from mmyolo_ext.evaluation.report.numbers import AP_NAMES, CALIBRATION_FROM, SIZES, Numbers
from mmyolo_ext.evaluation.report.page import caption, details, facts_table, plots, table
from mmyolo_ext.evaluation.report.tables import config_section, curves_section, data_plots
from mmyolo_ext.progress import with_bar

WORST = 12  # images of each error type
OF_CELL, MOST_CELLS = 3, 20  # images of a cell of the matrix, and cells with images
CLASSES_IN_CHARTS = 8
KEPT_APART = ('split', 'versions', 'overridden', 'reproduce', 'min_precision', 'batch_size', 'title')  # not in a row
AP_TITLES = dict(zip(AP_NAMES, ('AP', 'AP50', 'AP75', 'AP small', 'AP medium', 'AP large'), strict=True))


def write_report(
    folder: str | Path,
    *,
    ground_truth: dict,
    detections: list[dict],
    class_names: Sequence[str] | None = None,
    facts: dict[str, Any] | None = None,
    log: list[dict] | None = None,
    config: Config | None = None,
    image_root: str | Path | None = None,
    train_ground_truth: dict | None = None,
    data_section: str | None = None,
    keep_data: bool = False,
) -> Path:
    """Write ``index.html``, ``report.json``, CSV and PNG files, and what they were computed from, into a folder.

    Args:
        folder: Is made if it is missing; ``work_dir/report`` of a run.
        ground_truth: COCO JSON of the evaluated split.
        detections: Dicts of ``image_id``, ``category_id``, ``bbox`` xywh and ``score``.
        class_names: The classes that count, by default all categories.
        facts: Shown in the summary in their order. Of these, ``split`` names the evaluated split, ``title`` the page,
            ``versions`` and ``overridden`` (config keys and their values) are dicts, ``reproduce`` is a text,
            ``batch_size`` gives images per second, and with ``min_precision`` the operating point keeps a precision.
        log: Rows of the scalars that MMEngine writes.
        config: Of the run.
        image_root: Of relative file names in ``ground_truth``.
        train_ground_truth: COCO JSON of the training split, to compare its boxes.
        data_section: HTML of the data check.
        keep_data: Keep the section about the data of the report that is in the folder, if there is one.

    Returns:
        The path of ``index.html``.
    """
    folder, facts = Path(folder), facts or {}
    folder.mkdir(parents=True, exist_ok=True)
    ground_truth = _select(_absolute(ground_truth, image_root), class_names)
    wanted = {category['id'] for category in ground_truth['categories']}
    detections = [entry for entry in detections if entry['category_id'] in wanted]
    numbers = Numbers(ground_truth, detections, match(ground_truth, detections), facts.get('min_precision'))
    _write_json(folder / 'ground_truth.json', ground_truth)
    _write_json(folder / 'detections.json', detections)
    _write_json(folder / 'report.json', {**numbers.as_json(), 'facts': facts})
    _write_tables(folder, numbers)

    figures = charts.Figures(folder)
    gallery = Gallery(ground_truth, numbers.matching, numbers.confidence, numbers.errors, numbers.partner)
    split = facts.get('split', 'validation')
    where = f'{split} split, {len(ground_truth["images"]):,} images, IoU 0.5, confidence {numbers.confidence:.3f}'
    # the images of the errors come first: of many images, the page has no room for all
    errors, matrix = _errors(figures, numbers, gallery, where), _matrix(figures, numbers, gallery, where)
    data_html = folder / 'data.html'
    if not (keep_data and data_html.exists()):
        splits = {split: ground_truth, 'training': train_ground_truth}
        data_html.write_text(data_plots(figures, splits, config) + (data_section or ''), encoding='utf-8')
    sections = [
        ('summary', 'Summary', _summary(numbers, facts, split)),
        ('curves', 'Training', curves_section(figures, log, facts.get('batch_size')) if log else ''),
        ('classes', 'Classes', _classes(figures, numbers, split)),
        ('matrix', 'Confusion matrix', matrix),
        ('errors', 'Errors', errors),
        ('data', 'Data', data_html.read_text(encoding='utf-8')),
        ('config', 'Config', config_section(config, facts)),
    ]
    title = facts.get('title') or f'Report of {facts.get("model", folder.parent.name or "a run")}'
    content = html_page.page(title, [section for section in sections if section[2]], style=gallery.shown.style())
    (folder / 'index.html').write_text(content, encoding='utf-8')
    return folder / 'index.html'


def read_report(folder: str | Path) -> tuple[dict, list[dict], dict]:
    """Return ground truth, detections and numbers of a report.

    Args:
        folder: Of the report, or of its run.

    Raises:
        ValueError: If there is none.
    """
    folder = Path(folder)
    folder = folder / 'report' if (folder / 'report').is_dir() else folder
    parts = []
    for name in ('ground_truth.json', 'detections.json', 'report.json'):
        try:
            parts.append(json.loads((folder / name).read_text(encoding='utf-8')))
        except (OSError, ValueError) as error:
            raise ValueError(
                f'{folder} holds no report that can be read ({name}: {error}): give the folder of a run that was '
                'trained or tested'
            ) from error
    return tuple(parts)


def _select(gt: dict, class_names: Sequence[str] | None) -> dict:
    """Keep the categories of the classes, in their order, and their annotations."""
    if class_names is None:
        return gt
    by_name = {category['name']: category for category in gt['categories']}
    missing = [name for name in class_names if name not in by_name]
    if missing:
        raise ValueError(f'classes {missing} are not among the categories {list(by_name)} of the ground truth')
    categories = [by_name[name] for name in class_names]
    ids = {category['id'] for category in categories}
    annotations = [entry for entry in gt['annotations'] if entry['category_id'] in ids]
    return {**gt, 'categories': categories, 'annotations': annotations}


def _absolute(gt: dict, root: str | Path | None) -> dict:
    images = [
        {**entry, 'file_name': str((Path(root or '') / entry['file_name']).absolute())} for entry in gt['images']
    ]
    return {**gt, 'images': images}


def _plain(value: Any) -> Any:
    """Return a value as JSON knows it; NaN as null."""
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | None) else str(value)


def _write_json(path: Path, value: Any) -> None:
    """Write a JSON file; one of boxes, which hold plain numbers, at once and in one line."""
    is_large = isinstance(value, list) or 'annotations' in value
    path.write_text(
        json.dumps(value, default=_plain) if is_large else json.dumps(_plain(value), indent=1), encoding='utf-8'
    )


def write_csv(path: Path, head: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table."""
    with path.open('w', newline='', encoding='utf-8') as file:
        csv.writer(file).writerows([head, *rows])


def _write_tables(folder: Path, numbers: Numbers) -> None:
    names = [*numbers.matching.class_names, 'background']
    write_csv(folder / 'per_class.csv', list(numbers.per_class[0]), [row.values() for row in numbers.per_class])
    head = ['true \\ predicted', *names[:-1], 'missed']
    write_csv(folder / 'matrix.csv', head, [[name, *row] for name, row in zip(names, numbers.matrix, strict=True)])
    counts = numbers.errors.counts()
    write_csv(
        folder / 'errors.csv',
        ['type', 'count', 'ap50_cost'],
        [[name, counts[name], numbers.costs[name]] for name in TYPES],
    )
    rows = []
    for name, one in zip(['all', *names[:-1]], numbers.curves, strict=True):
        parts = charts.thin(one.confidence, one.precision, one.recall, one.f1)
        rows += [[name, *values] for values in zip(*parts, strict=True)]
    write_csv(folder / 'pr_curves.csv', ['class', 'confidence', 'precision', 'recall', 'f1'], rows)
    write_csv(
        folder / 'calibration.csv',
        ['low', 'high', 'count', 'confidence', 'precision'],
        [row.values() for row in numbers.bins],
    )


def _summary(numbers: Numbers, facts: dict, split: str) -> str:
    point = numbers.point
    rows = {name: value for name, value in facts.items() if value is not None and name not in KEPT_APART}
    return (
        caption(f'{split} split; AP by the rules of COCO, of IoU 0.5 to 0.95, all detections.')
        + html_page.cards({AP_TITLES[name]: value for name, value in numbers.ap.items()})
        + '<h3>Operating point</h3>'
        + caption(
            f'The confidence that {numbers.rule}, over all classes together, IoU 0.5. Counts, confusion matrix, '
            'errors and images below are those of the detections from this confidence on.'
        )
        + html_page.cards(
            {
                'confidence': point['confidence'],
                'precision': point['precision'],
                'recall': point['recall'],
                'F1': point['f1'],
                'true positives': point['true_positives'],
                'false positives': point['false_positives'],
                'ground truth': int(numbers.matching.gt_counts.sum()),
            }
        )
        + (facts_table(rows) if rows else '')
    )


def _classes(figures: charts.Figures, numbers: Numbers, split: str) -> str:
    matching, confidence = numbers.matching, numbers.confidence
    most = np.argsort(-matching.gt_counts, kind='stable')[:CLASSES_IN_CHARTS]
    shown = {'all': numbers.curves[0]} | {matching.class_names[at]: numbers.curves[at + 1] for at in sorted(most)}
    shown = {name: one for name, one in shown.items() if len(one.confidence)}
    left_out = len(matching.class_names) > len(most)
    which = f' The {len(most)} classes with the most boxes; pr_curves.csv holds all.' if left_out else ''
    pr = {name: (one.recall, one.precision) for name, one in shown.items()}
    f1 = {name: (one.confidence, one.f1) for name, one in shown.items()}
    sizes = {size: _recall_of(numbers, size) for size in SIZES}
    drawn = {
        f'Precision over recall, IoU 0.5.{which}': figures.draw(
            'pr', charts.lines(pr, 'recall', 'precision', unit=True)
        ),
        f'F1 over confidence, IoU 0.5; the operating point is {confidence:.3f}.': figures.draw(
            'f1', charts.lines(f1, 'confidence', 'F1', unit=True)
        ),
        f'Reliability: precision of the detections by confidence, from {CALIBRATION_FROM} on; on the diagonal, '
        f'confidence is a probability. Expected calibration error {numbers.ece:.3f}.': figures.draw(
            'reliability', charts.reliability(numbers.bins)
        ),
        f'Recall by object size at confidence {confidence:.3f}: small to 32² px, medium to 96² px.': figures.draw(
            'recall_by_size', charts.bars(sizes, 'recall')
        ),
    }
    names = ('name', 'ground_truth', 'detections', 'precision', 'recall', 'f1', 'best_confidence', 'ap', 'ap50')
    names += ('ap75', 'recall_small', 'recall_medium', 'recall_large', 'ece')
    head = ('class', 'boxes', 'detections', 'precision', 'recall', 'F1', 'best confidence', 'AP', 'AP50', 'AP75')
    head += ('recall small', 'recall medium', 'recall large', 'calibration error')
    rows = [[row[name] for name in names] for row in numbers.per_class]
    text = (
        f'{split} split, IoU 0.5. Detections, precision, recall and F1 at confidence {confidence:.3f}; '
        f'"best confidence" {numbers.rule} for the class alone.'
    )
    return caption(text) + table(head, rows) + '<br>' + plots(drawn)


def _recall_of(numbers: Numbers, size: str) -> float:
    totals = [row[f'{size}_ground_truth'] for row in numbers.per_class]
    found = [row[f'recall_{size}'] * total for row, total in zip(numbers.per_class, totals, strict=True) if total]
    return sum(found) / sum(totals) if sum(totals) else float('nan')


def _matrix(figures: charts.Figures, numbers: Numbers, gallery: Gallery, where: str) -> str:
    counts, names = numbers.matrix, numbers.matching.class_names
    figures.draw('matrix', charts.matrix(counts, [*names, 'background']), (5.2, 4.6))
    cells = [(row, column) for row, column in np.argwhere(counts).tolist() if row != column]
    cells.sort(key=lambda cell: -counts[cell])
    parts, links = [], set()
    for row, column in with_bar(cells[:MOST_CELLS], 'Images of the matrix'):
        images = gallery.cell(row, column, OF_CELL)
        if images:
            links.add((row, column))
            true = names[row] if row < len(names) else 'background'
            predicted = f'predicted as {names[column]}' if column < len(names) else 'missed'
            inside = f'<div class="images">{images}</div>'
            parts.append(details(f'{true} {predicted}', inside, f'{counts[row, column]}', f'cell-{row}-{column}'))
    hits = int(np.trace(counts[:-1, :-1]))
    confused = int(counts[:-1, :-1].sum()) - hits
    missed, background = int(counts[:, -1].sum()), int(counts[-1].sum())
    text = (
        f'{where}. Rows: true class; columns: predicted class. Detections find objects of their own class first, then '
        'objects of other classes that are left. Percentages are of the row; a number leads to its worst images.'
    )
    sums = (
        f'{hits:,} true positives + {confused:,} confused + {missed:,} missed = {int(counts[:-1].sum()):,} ground '
        f'truth boxes; {hits:,} true positives + {confused:,} confused + {background:,} background = '
        f'{int(counts[:, :-1].sum()):,} detections.'
    )
    return caption(text) + html_page.matrix_table(counts, names, links) + caption(sums) + ''.join(parts)


def _errors(figures: charts.Figures, numbers: Numbers, gallery: Gallery, where: str) -> str:
    counts = numbers.errors.counts()
    text = (
        f'{where}. Each false positive has one type (TIDE, Bolya et al. 2020). The cost is the AP50, of all '
        'detections, that is gained if the errors of the type are mended; costs do not add up.'
    )
    drawn = {
        'Number of errors at the operating point.': figures.draw('errors', charts.bars(counts, 'errors')),
        'AP50 that each type costs, all detections.': figures.draw('costs', charts.bars(numbers.costs, 'AP50')),
    }
    rows = [(name, counts[name], numbers.costs[name], numbers.meaning(name)) for name in TYPES]
    kinds = ('gt', 'correct', *TYPES)
    key = ''.join(
        f'<i class="k-{kind}"><span>{"ground truth" if kind == "gt" else html.escape(kind)}</span></i>'
        for kind in kinds
    )
    parts = [caption(text), table(('type', 'errors', 'AP50 cost', 'meaning'), rows), '<br>', plots(drawn)]
    parts.append(f'<h3>Worst images</h3><p class="key">{key}</p>')
    for name in with_bar(TYPES, 'Images of errors'):
        images = gallery.worst(name, WORST)
        if images:
            note = f'{counts[name]:,} errors; the worst images, boxes of the type thick'
            inside = f'<div class="images">{images}</div>'
            is_most = counts[name] == max(counts.values())
            parts.append(details(name.capitalize(), inside, note, f'error-{name}', is_most))
    return ''.join(parts)
