"""Images of a report: ground truth beside predictions. Each image is in the page once, boxes are drawn over it."""

import base64
import html
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np

from mmyolo_ext.evaluation.errors import CODES, NONE, Errors
from mmyolo_ext.evaluation.matching import Matching
from mmyolo_ext.image_io import read_image

SIDE, QUALITY = 360, 72  # px of the longer side, JPEG
MOST_BYTES = 2_700_000  # of all images as base64 and of their boxes; the page stays under 5 MB
MOST_BOXES = 150  # of one panel
NAMES = {code: name for name, code in CODES.items()} | {NONE: 'correct'}


@dataclass
class Shown:
    """What the galleries of a page have put into it: images as base64 by their index, and the bytes that are left."""

    styles: dict[int, str] = field(default_factory=dict)
    left: int = MOST_BYTES

    def style(self) -> str:
        """Return CSS that holds the images."""
        return ''.join(
            f'.i{image}{{background-image:url(data:image/jpeg;base64,{data})}}'
            for image, data in self.styles.items()
            if data
        )


class Gallery:
    """Draw images with their boxes at the operating point.

    Args:
        gt: COCO JSON whose ``file_name`` are paths that can be read.
        matching: Of the detections.
        confidence: Of the operating point.
        errors: At the operating point.
        partner: Of :func:`mmyolo_ext.evaluation.matching.confuse` at the operating point, for :meth:`cell`.
    """

    def __init__(
        self, gt: dict, matching: Matching, confidence: float, errors: Errors, partner: np.ndarray | None = None
    ) -> None:
        self.images, self.matching, self.errors, self.partner = gt['images'], matching, errors, partner
        self.kept = np.flatnonzero(matching.kept(confidence))
        self.by_image = _group(matching.image[self.kept], self.kept)
        self.gt_by_image = _group(matching.gt_image, np.arange(len(matching.gt_label)))
        self.shown = Shown()

    def row(self, image: int, marked: Iterable[int] = (), marked_gt: Iterable[int] = ()) -> str:
        """Return one image as two panels with a caption; marked boxes are thick.

        Returns:
            HTML, or '' if the page has no room for another image.
        """
        if not self._add(image):
            return ''
        entry, matching, errors = self.images[image], self.matching, self.errors
        marked, marked_gt = set(marked), set(marked_gt)
        truth, found = [], []
        for box in self.gt_by_image.get(image, ())[:MOST_BOXES]:
            kind = 'missed' if errors.missed[box] else 'crowd' if matching.gt_crowd[box] else 'gt'
            name = matching.class_names[matching.gt_label[box]]
            truth.append(_rect(matching.gt_xywh[box], kind, f'{name} ({kind})', box in marked_gt))
        for box in self.by_image.get(image, ())[:MOST_BOXES]:
            kind = NAMES[int(errors.code[box])]
            text = f'{matching.class_names[matching.label[box]]} {matching.score[box]:.2f} ({kind})'
            found.append(_rect(matching.xywh[box], kind, text, box in marked))
        size = f'{entry["width"]} {entry["height"]}'
        panels = [
            f'<div class="im i{image}" style="aspect-ratio:{size.replace(" ", "/")}"><svg viewBox="0 0 {size}" '
            f'role="img" aria-label="{title}">{"".join(boxes)}</svg><b>{title}</b></div>'
            for title, boxes in (('ground truth', truth), ('predictions', found))
        ]
        name = html.escape(Path(entry['file_name']).name)
        text = f'<figure class="pair"><div>{"".join(panels)}</div><figcaption>{name}</figcaption></figure>'
        self.shown.left -= len(text)
        return text

    def worst(self, name: str, count: int) -> str:
        """Return the images with the worst errors of a type: by the sum of scores, or the number of missed boxes."""
        matching, errors = self.matching, self.errors
        if name == 'missed':
            boxes = np.flatnonzero(errors.missed)
            return self.rows(matching.gt_image[boxes], np.ones(len(boxes)), count, marked_gt=boxes)
        found = np.flatnonzero(errors.code == CODES[name])
        return self.rows(matching.image[found], matching.score[found], count, found)

    def cell(self, row: int, column: int, count: int) -> str:
        """Return the images with the worst entries of a cell of the confusion matrix."""
        matching, partner = self.matching, self.partner
        classes = len(matching.class_names)
        if column == classes:
            free = ~matching.gt_crowd & (matching.gt_label == row)
            free[partner[partner >= 0]] = False
            boxes = np.flatnonzero(free)
            return self.rows(matching.gt_image[boxes], np.ones(len(boxes)), count, marked_gt=boxes)
        has = partner[self.kept] >= 0
        rows = np.where(has, matching.gt_label[partner[self.kept]], classes) if len(matching.gt_label) else classes
        found = self.kept[(rows == row) & (matching.label[self.kept] == column)]
        boxes = partner[found]
        return self.rows(matching.image[found], matching.score[found], count, found, boxes[boxes >= 0])

    def rows(
        self,
        images: np.ndarray,
        weights: np.ndarray,
        count: int,
        marked: Sequence[int] = (),
        marked_gt: Sequence[int] = (),
    ) -> str:
        """Return the images with the highest sums of weights."""
        known, index = np.unique(images, return_inverse=True)
        sums = np.bincount(index, weights, len(known))
        worst = known[np.argsort(-sums, kind='stable')[:count]]
        return ''.join(self.row(int(image), marked, marked_gt) for image in worst)

    def _add(self, image: int) -> bool:
        if image in self.shown.styles or self.shown.left <= 0:
            return self.shown.left > 0
        try:
            pixels, _ = read_image(self.images[image]['file_name'])
            height, width = pixels.shape[:2]
            scale = min(SIDE / max(height, width), 1)
            size = max(round(width * scale), 1), max(round(height * scale), 1)
            small = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
            data = base64.b64encode(cv2.imencode('.jpg', small, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))[1]).decode()
        except ValueError:
            data = ''  # the boxes are drawn on an empty panel
        self.shown.styles[image] = data
        self.shown.left -= len(data)
        return True


def _group(images: np.ndarray, values: np.ndarray) -> dict[int, np.ndarray]:
    """Return the values of each image."""
    order = np.argsort(images, kind='stable')
    known, starts = np.unique(images[order], return_index=True)
    return dict(zip(known.tolist(), np.split(values[order], starts[1:]), strict=True)) if len(known) else {}


def _rect(xywh: np.ndarray, kind: str, text: str, is_marked: bool) -> str:
    x, y, width, height = (f'{value:.0f}' for value in xywh)
    mark = ' m' if is_marked else ''
    return (
        f'<rect class="{kind}{mark}" x="{x}" y="{y}" width="{width}" height="{height}">'
        f'<title>{html.escape(text)}</title></rect>'
    )
