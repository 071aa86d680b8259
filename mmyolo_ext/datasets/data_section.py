"""Show findings as HTML, with images."""

import base64
import contextlib
import html
import os
from collections.abc import Sequence

import cv2
import numpy as np

from mmyolo_ext.datasets.checked_coco import CheckedCocoDataset
from mmyolo_ext.datasets.data_check import CHECKS, SEVERITIES, Finding, check_data
from mmyolo_ext.image_io import read_image
from mmyolo_ext.registry import FUNCTIONS

MOST_CHECKED = 3000  # images of a run that its report checks
SHOWN_IMAGES, SHOWN_NOTES = 4, 8  # of a finding
MOST_IMAGES = 80  # of a page
FAINT = 9  # px, below which a box is shown in a circle
SIDE, QUALITY = 240, 75  # px of the longer side, JPEG
COLOURS = {'error': '#d5383e', 'warning': '#b7791f', 'note': '#4a78c2'}
STYLE = """
.data-check{font:15px/1.5 system-ui,sans-serif}
.data-check details{border:1px solid #8884;border-radius:8px;margin:.5em 0;padding:.5em .9em}
.data-check summary{cursor:pointer;font-weight:600}
.data-check .badge{color:#fff;border-radius:4px;padding:.1em .5em;font-size:.8em;margin-right:.5em}
.data-check .cure{margin:.5em 0}
.data-check .name{opacity:.65;font-weight:400;font-size:.85em;margin-left:.5em}
.data-check ul{margin:.3em 0;padding-left:1.2em;font-size:.88em;overflow-wrap:anywhere}
.data-check .images{display:flex;flex-wrap:wrap;gap:.7em}
.data-check figure{margin:0;width:240px}
.data-check figcaption{font-size:.78em;opacity:.8;overflow-wrap:anywhere}
.data-check img{border-radius:4px;display:block}
"""
PAGE = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>Data check</title>
<style>:root{{color-scheme:light dark}}body{{max-width:1080px;margin:2em auto;padding:0 1em;
background:Canvas;color:CanvasText;font-family:system-ui,sans-serif}}</style>
</head><body><h1>{title}</h1>
{section}
</body></html>
"""


def data_section(findings: Sequence[Finding]) -> str:
    """Return findings as a piece of HTML that holds its images and style, for a report or a page."""
    counts = {severity: sum(one.severity == severity for one in findings) for severity in SEVERITIES}
    shown = ', '.join(f'{count} {severity}s' for severity, count in counts.items())
    parts = [f'<section class="data-check"><style>{STYLE}</style>', f'<p>{len(CHECKS)} checks: {shown}.</p>']
    left = MOST_IMAGES
    for finding in findings:
        figures = []
        for item in finding.items:
            if len(figures) < min(SHOWN_IMAGES, left) and item['image']:
                figures += [_figure(item)]
        left -= len(figures)
        is_open = ' open' if finding.severity == 'error' else ''
        severity, text, _ = CHECKS[finding.check]
        parts.append(
            f'<details{is_open}><summary><span class="badge" style="background:{COLOURS[severity]}">{severity}</span>'
            f'{html.escape(text[0].upper() + text[1:])}: {finding.count:,}'
            f'<span class="name">{finding.check}</span></summary>'
            f'<p class="cure">Cure: {html.escape(finding.cure)}.</p>'
            f'<div class="images">{"".join(figures)}</div>{_notes(finding)}</details>'
        )
    if not findings:
        parts.append('<p>Nothing was found.</p>')
    return '\n'.join([*parts, '</section>'])


@FUNCTIONS.register_module()
def run_data_section(splits: dict[str, object], evaluated: str, detections: Sequence[dict]) -> str:
    """Check the data of a run, with its detections, for its report.

    Args:
        splits: 'train', 'val' and 'test' to the datasets.
        evaluated: The split of the detections.
        detections: COCO results.

    Returns:
        HTML; how to get it, if there are more than 3000 images; '' if a dataset is not one of ours.
    """
    if not splits or not all(isinstance(dataset, CheckedCocoDataset) for dataset in splits.values()):
        return ''
    if sum(map(len, splits.values())) > MOST_CHECKED:
        return '<p>Check the data by <code>mmyolo-ext check</code>: of this many images, it takes minutes.</p>'
    dataset = splits[evaluated]
    infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    paths = {info['img_id']: os.path.abspath(info['img_path']) for info in infos}
    labels = {category: label for label, category in enumerate(dataset.cat_ids)}
    rows: dict[str, list] = {path: [] for path in paths.values()}
    for one in detections:
        if one['image_id'] in paths and one['category_id'] in labels:
            x, y, w, h = one['bbox']
            rows[paths[one['image_id']]].append((x, y, x + w, y + h, one['score'], labels[one['category_id']]))
    arrays = {path: np.array(own, np.float64).reshape(-1, 6) for path, own in rows.items()}
    return '<h3>Check of the data</h3>' + data_section(check_data(splits, arrays))


def data_page(findings: Sequence[Finding], title: str) -> str:
    """Return a page of its own with the findings."""
    return PAGE.format(title=html.escape(title), section=data_section(findings))


def _notes(finding: Finding) -> str:
    """Return where the first faults are, as a list."""
    rows = [' '.join(filter(None, (item['image'], item['note']))) for item in finding.items[:SHOWN_NOTES]]
    rows = [f'<li>{html.escape(row)}</li>' for row in rows if row]
    more = finding.count - SHOWN_NOTES
    rows += [f'<li>and {more:,} more</li>'] if more > 0 else []
    return f'<ul>{"".join(rows)}</ul>' if rows else ''


def _figure(item: dict) -> str:
    """Return an image with its boxes, and the image that it resembles beside it; nothing if it cannot be read."""
    try:
        image, _ = read_image(item['image'])
    except ValueError:
        return ''
    scale = SIDE / max(image.shape[:2])
    size_wh = [max(1, round(side * scale)) for side in image.shape[1::-1]]
    image = cv2.resize(image, size_wh, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    for box in item['boxes']:
        x1, y1, x2, y2 = (int(min(max(value * scale, -SIDE), 2 * SIDE)) for value in box)
        if max(x2 - x1, y2 - y1) < FAINT:
            cv2.circle(image, ((x1 + x2) // 2, (y1 + y2) // 2), FAINT, (40, 40, 230), 2)
        cv2.rectangle(image, (x1, y1), (x2, y2), (255, 255, 255), 3)
        cv2.rectangle(image, (x1, y1), (x2, y2), (40, 40, 230), 2)
    if item.get('other'):
        with contextlib.suppress(ValueError):
            other = cv2.resize(read_image(item['other'])[0], size_wh, interpolation=cv2.INTER_AREA)
            image = cv2.resize(np.hstack([image, other]), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    text = base64.b64encode(cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]).decode()
    caption = html.escape(item['note'] or item['image'])
    return (
        f'<figure><img alt="{html.escape(item["image"])}" src="data:image/jpeg;base64,{text}" '
        f'width="{image.shape[1]}" height="{image.shape[0]}"><figcaption>{caption}</figcaption></figure>'
    )
