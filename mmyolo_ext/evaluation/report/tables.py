"""The sections of a report that do not depend on detections: training curves, data and config."""

import html
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
from mmengine.config import Config

from mmyolo_ext.coco_json import check_boxes
from mmyolo_ext.evaluation.report import figures as charts
from mmyolo_ext.evaluation.report.page import caption, facts_table, plots, table

# where a shortcut is in a config; others are in many places
SHORTCUTS = {'max_epochs': 'train_cfg.max_epochs', 'batch_size': 'train_dataloader.batch_size'}
SHORTCUTS |= {'input_size': 'img_scale', 'class_names': 'num_classes', 'logger': 'visualizer.vis_backends'}
METRICS = {'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75'}


def curves_section(figures: charts.Figures, log: list[dict], batch_size: int | None) -> str:
    """Return the curves of a training.

    Args:
        figures: Draws and keeps them.
        log: Rows of the scalars that MMEngine writes: those of training have ``loss``, those of validation a metric.
        batch_size: Images per step over all ranks.
    """
    steps = [row for row in log if 'loss' in row]
    drawn: dict[str, str] = {}

    def add(text: str, name: str, series: dict[str, tuple], ylabel: str, xlabel: str = 'step', log: bool = False):
        series = {key: values for key, values in series.items() if len(values[0])}
        if series:
            drawn[text] = figures.draw(name, charts.lines(series, xlabel, ylabel, log=log))

    def column(key: str, of: Callable[[dict], float] | None = None) -> tuple[list, list]:
        rows = [row for row in steps if key in row]
        return [row['step'] for row in rows], [of(row) if of else row[key] for row in rows]

    terms = list(dict.fromkeys(key for row in steps for key in row if key.startswith('loss_')))
    add('Losses, mean since the last row of the log.', 'losses', {k: column(k) for k in ('loss', *terms)}, 'loss')
    shares = {
        key: column(key, lambda row, key=key: row[key] / max(sum(row.get(term, 0) for term in terms), 1e-12))
        for key in terms
    }
    add('Share of each loss term.', 'loss_shares', shares, 'share')
    rates = {key: column(key) for key in ('lr', 'base_lr') if any(key in row for row in steps)}
    if rates.get('lr') == rates.get('base_lr'):
        rates.pop('base_lr', None)
    add('Learning rate.', 'learning_rate', rates, 'learning rate')
    metrics = {}
    for key, name in METRICS.items():
        rows = [(row['step'], value) for row in log for full, value in row.items() if full.split('/')[-1] == key]
        metrics[name] = tuple(zip(*dict(rows).items(), strict=True)) or ((), ())
    add('Average precision on the validation split.', 'ap', metrics, 'AP', 'epoch')
    if batch_size:
        rate = column('time', lambda row: batch_size / max(row['time'], 1e-9))
        add('Images per second in training.', 'images_per_second', {'images/s': rate}, 'images/s')
    wait = column('data_time', lambda row: row['data_time'] / max(row.get('time', 0), 1e-9))
    add('Share of a step spent waiting for data.', 'data_wait', {'data': wait}, 'share')
    add('Memory: the peak of the GPU, or, on a CPU, of the process.', 'memory', {'memory': column('memory')}, 'MB')
    return caption('From the log of the run; a step is one batch.') + plots(drawn) if drawn else ''


def data_plots(figures: charts.Figures, splits: dict[str, dict | None], config: Config | None) -> str:
    """Return label counts, sizes, shapes and positions of the boxes of each split, and how well anchors fit them."""
    anchors, size_wh = _anchors(config)
    splits = {name: gt for name, gt in splits.items() if gt is not None}
    names = list(dict.fromkeys(category['name'] for gt in splits.values() for category in gt['categories']))
    facts, counts, side, ratio, centre, fit = [], {}, {}, {}, {}, {}
    for name, gt in splits.items():
        by_id = {category['id']: category['name'] for category in gt['categories']}
        _, faults, _, xywh, sizes_wh = check_boxes(gt)  # the training split may hold boxes that training drops
        good = [
            at
            for at, (entry, fault) in enumerate(zip(gt['annotations'], faults, strict=True))
            if fault is None and not entry.get('iscrowd')
        ]
        chosen = [gt['annotations'][at] for at in good]
        boxes, image_wh = xywh[good], sizes_wh[good]
        labels = Counter(by_id[entry['category_id']] for entry in chosen)
        counts[name] = {one: labels[one] for one in names}
        empty = len(gt['images']) - len({entry['image_id'] for entry in chosen})
        facts.append((name, len(gt['images']), empty, len(boxes), len(boxes) / max(len(gt['images']), 1)))
        if len(boxes):
            wh = np.maximum(boxes[:, 2:], 1e-3)
            side[name] = np.sqrt(wh.prod(1) / image_wh.prod(1))
            ratio[name] = wh[:, 0] / wh[:, 1]
            if len(anchors):
                scaled = wh * (size_wh / image_wh).min(1, keepdims=True)
                fit[name] = np.minimum(scaled[:, None] / anchors, anchors / scaled[:, None]).min(2).max(1)
            centre[name] = (boxes[:, :2] + boxes[:, 2:] / 2) / image_wh
    drawn = {}
    if side:
        drawn['Size of the boxes: square root of their share of the image.'] = figures.draw(
            'box_sizes', charts.histogram(side, 'relative side')
        )
        drawn['Aspect ratio, width over height.'] = figures.draw(
            'aspect_ratios', charts.histogram(ratio, 'aspect ratio', log=True)
        )
        first = next(iter(centre))
        drawn[f'Centres of the boxes in the image, {first} split.'] = figures.draw(
            'positions', charts.positions(centre[first])
        )
    if fit:
        text = (
            f'Anchor fit at {size_wh[0]:g} x {size_wh[1]:g} px: for each box, the smaller ratio of its sides to those '
        )
        text += 'of the best anchor, 1 for equal sides. From 0.25 on, a YOLOv5 anchor answers for it: '
        text += ', '.join(f'{(values >= 0.25).mean():.1%} ({name})' for name, values in fit.items())
        drawn[f'{text}.'] = figures.draw('anchor_fit', charts.histogram(fit, 'best ratio'))
    head = ('class', *(f'boxes, {name}' for name in splits))
    rows = [(one, *(counts[name][one] for name in splits)) for one in names]
    columns = ('split', 'images', 'without boxes', 'boxes', 'boxes per image')
    parts = [caption('Boxes of the annotations, without crowd regions.'), table(columns, facts), '<br>']
    return ''.join((*parts, table(head, rows), '<br>', plots(drawn)))


def _anchors(config: Config | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the anchors (K, 2) of a config, px, and the input size (width, height); no anchors if it has none."""
    config = config or {}
    head = config.get('model', {}).get('bbox_head') or {}
    sizes = (head.get('prior_generator') or {}).get('base_sizes') if isinstance(head, dict) else None
    scale = config.get('img_scale')
    if not sizes or not scale:
        return np.empty((0, 2)), np.empty(2)
    return np.array(sizes, dtype=np.float64).reshape(-1, 2), np.broadcast_to(np.asarray(scale, dtype=float), 2)


def config_section(config: Config | None, facts: dict) -> str:
    """Return how to reproduce the run, versions, overridden values and the config, in which these are marked."""
    parts = []
    if facts.get('reproduce'):
        parts += ['<h3>Reproduce</h3>', f'<pre>{html.escape(facts["reproduce"])}</pre>']
    if facts.get('versions'):
        parts += ['<h3>Versions</h3>', facts_table(facts['versions'])]
    overridden = facts.get('overridden') or {}
    if overridden:
        parts += ['<h3>Overridden values</h3>', facts_table({key: str(value) for key, value in overridden.items()})]
    if config is not None:
        lines, part = [], ''
        for line in config.pretty_text.splitlines():
            part = line.split(' = ')[0] if re.match(r'\w+ = ', line) else part
            keys = [SHORTCUTS.get(key, key).split('.') for key in overridden]
            is_changed = any(key[0] == part and re.search(rf'\b{re.escape(key[-1])} ?=', line) for key in keys)
            lines.append(f'<mark>{html.escape(line)}</mark>' if is_changed else html.escape(line))
        note = caption('Lines of overridden keys are marked.') if overridden else ''
        parts += ['<h3>Full config</h3>', note, '<pre>', '\n'.join(lines), '</pre>']
    return ''.join(parts)
