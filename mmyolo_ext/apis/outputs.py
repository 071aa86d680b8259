"""Files that hold detections of many images and frames, written one by one, so that memory stays flat."""

import csv
import json
import shutil
import tempfile
from collections import Counter, defaultdict
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from mmyolo_ext.apis.results import Detections

FORMATS = ('json', 'coco', 'yolo', 'csv', 'crops', 'counts')
COLUMNS = ('file', 'frame', 'time', 'id', 'label', 'class', 'score', 'x1', 'y1', 'x2', 'y2')


class Outputs:
    """Writes detections in some of :data:`FORMATS` to a folder; a context manager.

    ==========  ==============================  =================================================================
    format      file in the folder              content
    ==========  ==============================  =================================================================
    ``json``    ``predictions.json``            a list with one entry per image or frame
    ``coco``    ``coco.json``                   a COCO dataset; annotations with ``score``, and ``track_id``
    ``yolo``    ``labels/NAME.txt``             ``class cx cy w h score [id]`` per box, relative to the image
    ``csv``     ``predictions.csv``             one row per box
    ``crops``   ``crops/NAME/000_CLASS.png``    the part of the image in each box
    ``counts``  ``counts.json``                 number of boxes, and of tracked objects, by input and class
    ==========  ==============================  =================================================================

    Args:
        folder: Exists.
        names: Classes of the detector.
        formats: Of :data:`FORMATS`.

    Attributes:
        images, boxes: Number of images and boxes so far.
    """

    def __init__(self, folder: Path, names: tuple[str, ...], formats: tuple[str, ...] = ('json',)) -> None:
        self.folder, self.names, self.images, self.boxes = folder, names, 0, 0
        self._formats, self._stack = formats, ExitStack()
        self._boxes_of: dict[str, Counter] = defaultdict(Counter)
        self._labels_of: dict[str, dict[int, Counter]] = defaultdict(lambda: defaultdict(Counter))

    def __enter__(self) -> 'Outputs':
        if 'json' in self._formats:
            self._json = self._open('predictions.json')
            self._json.write('[')
        if 'coco' in self._formats:
            categories = [{'id': number, 'name': name} for number, name in enumerate(self.names, 1)]
            self._coco = self._open('coco.json')
            self._coco.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')
            self._coco_images = self._stack.enter_context(tempfile.TemporaryFile('w+', encoding='utf-8'))
        if 'csv' in self._formats:
            self._csv = csv.writer(self._open('predictions.csv'))
            self._csv.writerow(COLUMNS)
        if 'yolo' in self._formats:
            (self.folder / 'labels').mkdir(exist_ok=True)
        return self

    def __exit__(self, *error: object) -> None:
        with self._stack:
            if 'json' in self._formats:
                self._json.write('\n]\n')
            if 'coco' in self._formats:
                self._coco_images.seek(0)
                self._coco.write('],\n"images": [')
                shutil.copyfileobj(self._coco_images, self._coco)
                self._coco.write(']}\n')
            if 'counts' in self._formats:
                counts = {source: self.counts(source) for source in self._boxes_of}
                self._open('counts.json').write(json.dumps(counts, indent=1) + '\n')

    def add(self, source: str, name: str, found: Detections) -> None:
        """Write the detections of one image or frame.

        Args:
            source: The input, as users named it.
            name: Name of its drawing; without suffix it names the files of this image.
            found: Detections; with an image for crops.
        """
        stem = Path(name).stem if found.frame is None else f'{Path(name).stem}_{found.frame:06}'
        ids = np.zeros(len(found.scores), int) if found.ids is None else found.ids
        if 'json' in self._formats:
            self._json.write((',' if self.images else '') + '\n' + json.dumps(describe(source, found)))
        if 'coco' in self._formats:
            self._add_coco(source, found)
        if 'csv' in self._formats:
            for box, score, label, number in zip(*(field.tolist() for field in (*found, ids)), strict=True):
                moment = None if found.time is None else round(found.time, 3)
                row = (source, found.frame, moment, number or None, label, self.names[label], f'{score:.4f}')
                self._csv.writerow([*row, *(f'{side:.2f}' for side in box)])
        if 'yolo' in self._formats:
            (self.folder / 'labels' / f'{stem}.txt').write_text(yolo_text(found))
        if 'crops' in self._formats and len(found.scores):
            found.crop(self.folder / 'crops' / stem)
        counts, labels = self._boxes_of[source], self._labels_of[source]
        counts.update(found.labels.tolist())
        for number, label in zip(ids.tolist(), found.labels.tolist(), strict=True):
            if number:
                labels[number][label] += 1
        self.images += 1
        self.boxes += len(found.scores)

    def counts(self, source: str) -> dict[str, dict[str, int]]:
        """Return the number of boxes, and of tracked objects if there are some, by class.

        The class of an object is the one that most of its boxes have.
        """
        objects = Counter(labels.most_common(1)[0][0] for labels in self._labels_of[source].values())
        both = {'boxes': self._boxes_of[source], **({'objects': objects} if objects else {})}
        return {key: {self.names[label]: found[label] for label in sorted(found)} for key, found in both.items()}

    def _open(self, name: str) -> Any:
        return self._stack.enter_context((self.folder / name).open('w', encoding='utf-8', newline=''))

    def _add_coco(self, source: str, found: Detections) -> None:
        number = self.images + 1
        height, width = found.image_hw
        image = {'id': number, 'file_name': source, 'height': height, 'width': width}
        if found.frame is not None:
            image |= {'frame_id': found.frame}
        self._coco_images.write((',' if self.images else '') + '\n' + json.dumps(image))
        for index, entry in enumerate(found.to_coco(number)):
            area = entry['bbox'][2] * entry['bbox'][3]
            entry = {'id': self.boxes + index + 1, **entry, 'area': area, 'iscrowd': 0}
            self._coco.write((',' if self.boxes + index else '') + '\n' + json.dumps(entry))


def describe(source: str | Path, found: Detections) -> dict:
    """Return the entry of an image in the JSON: boxes are x1, y1, x2, y2 in px."""
    ids = [{}] * len(found.scores) if found.ids is None else [{'id': int(number) or None} for number in found.ids]
    rows = zip(*(field.tolist() for field in found), ids, strict=True)
    boxes = [
        {
            'box': [round(side, 2) for side in box],
            'score': round(score, 4),
            'label': label,
            'class': found.names[label],
            **number,
        }
        for box, score, label, number in rows
    ]
    return {'file': str(source), **({} if found.frame is None else {'frame': found.frame}), 'boxes': boxes}


def yolo_text(found: Detections) -> str:
    """Return a line ``class cx cy w h score`` per box, relative to the image, and the id of tracked objects."""
    height, width = found.image_hw
    x1, y1, x2, y2 = (found.boxes_xyxy / [width, height, width, height]).T
    numbers = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1, found.scores], 1)
    ids = [''] * len(found.scores) if found.ids is None else [f' {number}' for number in found.ids]
    return ''.join(
        f'{label} {" ".join(f"{value:.6f}" for value in row)}{number}\n'
        for label, row, number in zip(found.labels.tolist(), numbers.tolist(), ids, strict=True)
    )
