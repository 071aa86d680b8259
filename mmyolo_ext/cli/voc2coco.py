"""Pascal VOC to COCO: one JSON per split.

``python tools/dataset_converters/voc2coco.py VOC_ROOT OUT`` reads ``VOC_ROOT/{Annotations,JPEGImages,ImageSets/Main}``
and writes ``OUT/<split>.json``, whose file names are relative to ``VOC_ROOT/JPEGImages``.

Coordinates: a COCO box is x, y, width, height on the continuous plane, origin at the upper left corner of the image.
By default VOC numbers are read as such corners: x = xmin, w = xmax - xmin, as labelImg and most tools write them.
Pascal's own files count pixels from 1 and include the last one; ``--one-based`` reads those: x = xmin - 1,
w = xmax - xmin + 1.

Every box that is dropped or clipped is counted and listed.
"""

import argparse
import json
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mmyolo_ext.datasets.voc import (
    DIFFICULT,
    annotated_size,
    discover_classes,
    find_image,
    object_name,
    parse_xml,
    read_corners,
    read_names,
    xml_file,
)


@dataclass
class Report:
    """Counts of the kept, dropped and clipped objects of a split."""

    images: int = 0
    background: int = 0
    kept: Counter = field(default_factory=Counter)  # by class
    dropped: list[str] = field(default_factory=list)
    clipped: list[str] = field(default_factory=list)
    ignored: int = 0

    def lines(self, split: str) -> list[str]:
        """Return the report as text."""
        counts = ', '.join(f'{name} {count}' for name, count in self.kept.items()) or 'no box'
        text = [f'{split}: {self.images} images ({self.background} without a box), {counts}']
        if self.ignored:
            text.append(f'  {self.ignored} difficult boxes are ignore regions (iscrowd=1)')
        for what, names in (('dropped', self.dropped), ('clipped to the image', self.clipped)):
            text += [f'  {len(names)} boxes {what}:'] * bool(names) + [f'    {name}' for name in names[:20]]
            text += [f'    ... and {len(names) - 20} more'] * (len(names) > 20)
        return text


def convert_object(
    item: ElementTree.Element, path: Path, size: tuple[int, int], classes: list[str], options: argparse.Namespace
) -> tuple[dict | None, str]:
    """Return the COCO annotation of an object (None if dropped), and a remark if it was dropped or clipped."""
    name, difficult = object_name(item), item.findtext('difficult', '0').strip() == '1'
    corners = read_corners(item, path, options.one_based)
    text = f'{path.name}: {name} at {", ".join(f"{value:g}" for value in corners)}'
    if name not in classes:
        return None, f'{text}: not one of the classes'
    if difficult and options.difficult == 'drop':
        return None, f'{text}: difficult'
    x1, x2 = (min(max(value, 0), size[0]) for value in corners[::2])
    y1, y2 = (min(max(value, 0), size[1]) for value in corners[1::2])
    if corners[2] <= corners[0] or corners[3] <= corners[1]:
        return None, f'{text}: no area'
    if x2 <= x1 or y2 <= y1:
        return None, f'{text}: outside the image of {size[0]} x {size[1]}'
    crowd = int(difficult and options.difficult == 'ignore')
    box = [x1, y1, x2 - x1, y2 - y1]
    annotation = {'category_id': classes.index(name), 'bbox': box, 'area': box[2] * box[3], 'iscrowd': crowd}
    return annotation, '' if (x1, y1, x2, y2) == corners else text


def convert_split(
    root: Path, names: list[str], classes: list[str], options: argparse.Namespace
) -> tuple[dict, Report]:
    """Return COCO dictionary and report of the images ``names``; category ids are positions in ``classes``."""
    categories = [{'id': index, 'name': name} for index, name in enumerate(classes)]
    coco = {'images': [], 'annotations': [], 'categories': categories}
    report = Report(images=len(names), kept=Counter(dict.fromkeys(classes, 0)))
    for image_id, name in enumerate(names):
        path = xml_file(root / 'Annotations', name)
        tree = parse_xml(path)
        image = find_image(root / 'JPEGImages', name, tree)
        width, height = annotated_size(tree, image)
        coco['images'].append({'id': image_id, 'file_name': image.name, 'width': width, 'height': height})
        before = len(coco['annotations'])
        for item in tree.iter('object'):
            annotation, remark = convert_object(item, path, (width, height), classes, options)
            if annotation is None:
                report.dropped.append(remark)
                continue
            # from 1: COCO's evaluation takes a match with the id 0 for no match
            coco['annotations'].append({'id': len(coco['annotations']) + 1, 'image_id': image_id, **annotation})
            report.kept[classes[annotation['category_id']]] += 1
            report.ignored += annotation['iscrowd']
            report.clipped += [remark] * bool(remark)
        report.background += before == len(coco['annotations'])
    return coco, report


def read_splits(root: Path, wanted: list[str] | None) -> dict[str, list[str]]:
    """Return the image names of each split: the given ones, or train, val, trainval and test where they exist."""
    folder = root / 'ImageSets' / 'Main'
    there = sorted(path.stem for path in folder.glob('*.txt'))
    chosen = wanted or [split for split in ('train', 'val', 'trainval', 'test') if split in there]
    missing = [split for split in chosen if split not in there]
    if missing or not chosen:
        raise ValueError(
            f'no list of images for {missing or "any split"} in {folder}, which has: {there or "nothing"}'
        )
    return {split: read_names(folder / f'{split}.txt', root / 'Annotations') for split in chosen}


def read_classes(values: list[str] | None) -> list[str] | None:
    """Return class names as given, or from a ``.txt`` file with one name per line."""
    if values and len(values) == 1 and values[0].endswith('.txt'):
        values = [line.strip() for line in Path(values[0]).read_text().splitlines() if line.strip()]
    if values and len(set(values)) < len(values):
        raise ValueError(f'a class is named twice: {values}')
    return values


def main(argv: Sequence[str] | None = None) -> dict[str, Report]:
    """Convert as ``argv`` defines it, by default the command line; return the reports by split."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('root', type=Path, help='folder with Annotations, JPEGImages and ImageSets/Main')
    parser.add_argument('out', type=Path, help='folder for the JSON files')
    parser.add_argument('--splits', nargs='+', help='default: those of train, val, trainval and test that exist')
    parser.add_argument('--classes', nargs='+', help='names in order, or a .txt with one a line; default: discovered')
    parser.add_argument('--order', choices=('sorted', 'found'), default='sorted', help='of discovered classes')
    parser.add_argument('--one-based', action='store_true', help='pixels count from 1, the last one included')
    parser.add_argument(
        '--difficult', choices=DIFFICULT, default='ignore', help='difficult boxes: iscrowd=1, as any other, or none'
    )
    options = parser.parse_args(argv)
    reports = {}
    try:
        splits = read_splits(options.root, options.splits)
        every = list(dict.fromkeys(name for names in splits.values() for name in names))
        classes = read_classes(options.classes) or discover_classes(options.root / 'Annotations', every, options.order)
        converted = {split: convert_split(options.root, names, classes, options) for split, names in splits.items()}
        options.out.mkdir(parents=True, exist_ok=True)
        print(f'classes: {", ".join(classes)}')
        for split, (coco, reports[split]) in converted.items():
            (options.out / f'{split}.json').write_text(json.dumps(coco))
            print('\n'.join(reports[split].lines(split)))
    except (ValueError, OSError) as error:
        print(f'error: {error}', file=sys.stderr)
        raise SystemExit(2) from None
    return reports


if __name__ == '__main__':
    main()
