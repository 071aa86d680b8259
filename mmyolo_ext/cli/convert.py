"""Convert a data set of any format to COCO, YOLO or Pascal VOC, and split it: ``mmyolo-ext convert``.

The input is what ``data`` of a config takes, see docs/guides/data.md. The output has the images:

* ``coco``: ``annotations/train.json``, images in ``train/``
* ``yolo``: ``data.yaml``, ``images/train/``, ``labels/train/``; ignore regions are left out, which YOLO does not have
* ``voc``: ``Annotations/``, ``JPEGImages/``, ``ImageSets/Main/train.txt``; corners are rounded to whole pixels
"""

import argparse
import dataclasses
import json
import os
import shutil
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import yaml

from mmyolo_ext.cli.common import tool, whole_or_nothing
from mmyolo_ext.coco_json import check_boxes, check_file_name, split_images, take_images
from mmyolo_ext.datasets import find_dataset
from mmyolo_ext.datasets.sources import SPLITS, DataSource, build
from mmyolo_ext.progress import with_bar

FORMATS = ('coco', 'yolo', 'voc')
SUM_TOLERANCE = 1e-6


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    parser.add_argument('data', type=Path, help='data.yaml, COCO JSON file, folder or zip')
    parser.add_argument('--to', choices=FORMATS, required=True, help='format to write')
    parser.add_argument('--out', type=Path, required=True, metavar='FOLDER', help='new or empty folder to write to')
    parser.add_argument(
        '--classes', nargs='+', metavar='NAME', help='keep these classes (default: all), in this order'
    )
    parser.add_argument(
        '--split',
        nargs='+',
        type=float,
        metavar='SHARE',
        help='split all images again, stratified by class: shares of train, val and optionally test, such as 0.8 0.2',
    )
    parser.add_argument('--subset', type=int, metavar='N', help='keep at most N images of each split, stratified')
    parser.add_argument('--seed', type=int, default=0, help='of --split and --subset (default: 0)')
    parser.add_argument(
        '--one-based',
        action='store_true',
        help="read VOC pixels as Pascal's own files have them: from 1, the last one included (default: as corners)",
    )
    parser.add_argument('--link', action='store_true', help='link to the images instead of copying them')
    return parser.parse_args(argv)


@tool(left='no file was written')
def main(argv: Sequence[str] | None = None) -> None:
    """Convert as ``argv`` defines it, by default the command line."""
    args = parse_args(argv)
    source = find_dataset(args.data)
    for note in source.notes:
        print(note)
    with whole_or_nothing(args.out):
        lines = convert(
            source, args.out, args.to, args.classes, args.split, args.subset, args.seed, args.link, args.one_based
        )
    print('\n'.join(lines))


def convert(
    source: DataSource,
    out: Path,
    to: str,
    classes: Sequence[str] | None = None,
    split: Sequence[float] | None = None,
    subset: int | None = None,
    seed: int = 0,
    link: bool = False,
    one_based: bool = False,
) -> list[str]:
    """Write a data set in another format.

    Args:
        source: What to convert.
        out: New or empty folder.
        to: 'coco', 'yolo' or 'voc'.
        classes: Names to keep, in the order of the new labels; None keeps all.
        split: Shares of train, val and test, to split all images again; None keeps the splits.
        subset: Largest number of images of each split.
        seed: Of ``split`` and ``subset``.
        link: Whether to link to the images instead of copying them.
        one_based: Whether the pixels of VOC files count from 1 and include the last one; the boxes that are written
            do not.

    Returns:
        Lines on what was kept, and what was dropped and why.

    Raises:
        ValueError: On an argument out of its range, broken annotations, or a missing image.
    """
    classes = tuple(classes or source.class_names)
    unknown = [name for name in classes if name not in source.class_names]
    if unknown or len(set(classes)) < len(classes):
        known = ', '.join(source.class_names)
        raise ValueError(f'classes must be distinct names among {known}, got {", ".join(classes)}')
    if split is not None and (
        len(split) not in (2, 3) or abs(sum(split) - 1) > SUM_TOLERANCE or not all(share > 0 for share in split)
    ):
        raise ValueError(f'split must be two or three positive shares with sum 1 (train, val, test), got {split}')
    if subset is not None and subset < 1:
        raise ValueError(f'subset must be at least 1, got {subset}')
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f'{out} is not an empty folder: give another one')
    if one_based:
        if source.format != 'voc':
            raise ValueError(
                f'one-based pixels are of Pascal VOC, {source.path} is {source.format}: leave the option out'
            )
        splits = {name: {**config, 'one_based': True} for name, config in source.splits.items()}
        source = dataclasses.replace(source, splits=splits)
    dropped = {}
    contents = {name: _read(source, name, classes, dropped.setdefault(name, Counter())) for name in source.splits}
    if split is not None:
        whole = _joined(list(contents.values()))
        parts = split_images(whole, split, seed)
        contents = {name: take_images(whole, part) for name, part in zip(SPLITS, parts, strict=False)}
        dropped = {'all images': sum(dropped.values(), Counter())}
    for name, content in contents.items():
        count = len(content['images'])
        if subset is not None and subset < count:
            parts = split_images(content, (subset / count, 1 - subset / count), seed)
            contents[name] = take_images(content, parts[0][:subset])
    name_files(contents)
    write = {'coco': write_coco, 'yolo': _write_yolo, 'voc': _write_voc}[to]
    write(out, contents, classes)
    folder = {'coco': '{split}', 'yolo': 'images/{split}', 'voc': 'JPEGImages'}[to]
    images = [(name, image) for name, content in contents.items() for image in content['images']]
    for name, image in with_bar(images, 'Linking images' if link else 'Copying images'):
        target = out / folder.format(split=name) / image['file_name']
        target.parent.mkdir(parents=True, exist_ok=True)
        if link:
            target.symlink_to(os.path.abspath(image['path']))
        else:
            shutil.copyfile(image['path'], target)
    return list(_report(contents, dropped, to))


def _report(contents: dict[str, dict], dropped: dict[str, Counter], to: str):
    for split, content in contents.items():
        with_boxes = {annotation['image_id'] for annotation in content['annotations']}
        crowds = sum(annotation['iscrowd'] for annotation in content['annotations'])
        left_out = f', of which {crowds} ignore regions' if crowds else ''
        yield (
            f'{split}: {len(content["images"])} images ({len(content["images"]) - len(with_boxes)} background), '
            f'{len(content["annotations"])} boxes{left_out}'
            + (' are left out: YOLO does not have them' if crowds and to == 'yolo' else '')
        )
    for split, counts in dropped.items():
        if counts:
            reasons = ', '.join(f'{count} {reason}' for reason, count in counts.items())
            yield f'dropped from {split}: {sum(counts.values())} boxes: {reasons}'


def _read(source: DataSource, split: str, classes: tuple[str, ...], dropped: Counter) -> dict:
    """Return the images of a split with their ``path``, and the boxes that a training would use.

    Category ids are positions in ``classes``.
    """
    dataset = build(source.splits[split])
    content = dataset.read_content()
    dropped.update(content.get('dropped', {}))
    folder = dataset.data_prefix['img'], dataset.data_root, dataset.allow_outside, dataset.source
    images = [
        {
            'id': image['id'],
            'file_name': image['file_name'],
            'width': image['width'],
            'height': image['height'],
            'path': check_file_name(image['file_name'], *folder),
        }
        for image in content['images']
    ]
    names = {category['id']: category['name'] for category in content['categories']}
    annotations = []
    boxes_xyxy, faults, _, _, _ = check_boxes(content)
    for annotation, fault, (x1, y1, x2, y2) in zip(content['annotations'], faults, boxes_xyxy.tolist(), strict=True):
        name = names.get(annotation['category_id'])
        if fault is not None or name not in classes:
            dropped[fault or 'of another class'] += 1
            continue
        annotations.append(
            {
                'id': len(annotations) + 1,
                'image_id': annotation['image_id'],
                'category_id': classes.index(name),
                'bbox': [x1, y1, x2 - x1, y2 - y1],
                'area': (x2 - x1) * (y2 - y1),
                'iscrowd': int(bool(annotation.get('iscrowd') or annotation.get('ignore'))),
            }
        )
    return {'images': images, 'annotations': annotations}


def _joined(contents: list[dict]) -> dict:
    """Return all images as one content, with new ids; an image of several splits counts once."""
    whole: dict[str, list] = {'images': [], 'annotations': []}
    known: set[str] = set()
    for content in contents:
        ids = {}
        for image in content['images']:
            if image['path'] not in known:
                known.add(image['path'])
                ids[image['id']] = len(known)
                whole['images'].append({**image, 'id': len(known)})
        whole['annotations'] += [
            {**annotation, 'image_id': ids[annotation['image_id']]}
            for annotation in content['annotations']
            if annotation['image_id'] in ids
        ]
    return whole


def name_files(contents: dict[str, dict]) -> None:
    """Give each image a file name without folders whose stem no other image has."""
    images = [image for content in contents.values() for image in content['images']]
    stems = Counter(Path(image['file_name']).stem for image in images)
    taken: set[str] = set()
    for image in images:
        path = Path(image['file_name'].replace('\\', '/'))
        stem = path.stem if stems[path.stem] == 1 else '_'.join(path.with_suffix('').parts)
        while stem in taken:
            stem += '_'
        taken.add(stem)
        image['file_name'] = stem + path.suffix


def _boxes_of(content: dict) -> dict[int, list[dict]]:
    boxes: dict[int, list[dict]] = {image['id']: [] for image in content['images']}
    for annotation in content['annotations']:
        boxes[annotation['image_id']].append(annotation)
    return boxes


def write_coco(out: Path, contents: dict[str, dict], classes: tuple[str, ...]) -> None:
    """Write ``annotations/SPLIT.json`` of each split; category ids of ``contents`` are positions in ``classes``."""
    categories = [{'id': label + 1, 'name': name} for label, name in enumerate(classes)]
    (out / 'annotations').mkdir(parents=True)
    for split, content in contents.items():
        numbers = {image['id']: number for number, image in enumerate(content['images'], 1)}
        images = [
            {**{key: value for key, value in image.items() if key != 'path'}, 'id': numbers[image['id']]}
            for image in content['images']
        ]
        annotations = [
            {
                **annotation,
                'id': number,
                'image_id': numbers[annotation['image_id']],
                'category_id': annotation['category_id'] + 1,
            }
            for number, annotation in enumerate(content['annotations'], 1)
        ]
        text = json.dumps({'images': images, 'annotations': annotations, 'categories': categories})
        (out / 'annotations' / f'{split}.json').write_text(text, encoding='utf-8')


def _write_yolo(out: Path, contents: dict[str, dict], classes: tuple[str, ...]) -> None:
    for split, content in contents.items():
        folder = out / 'labels' / split
        folder.mkdir(parents=True)
        boxes = _boxes_of(content)
        for image in content['images']:
            width, height = image['width'], image['height']
            lines = []
            for annotation in boxes[image['id']]:
                if not annotation['iscrowd']:
                    x, y, w, h = annotation['bbox']
                    numbers = (x + w / 2) / width, (y + h / 2) / height, w / width, h / height
                    lines.append(f'{annotation["category_id"]} ' + ' '.join(f'{number:.9g}' for number in numbers))
            (folder / image['file_name']).with_suffix('.txt').write_text('\n'.join(lines) + '\n' * bool(lines))
    data = {split: f'images/{split}' for split in contents}
    text = yaml.safe_dump({**data, 'names': dict(enumerate(classes))}, sort_keys=False, allow_unicode=True)
    (out / 'data.yaml').write_text(text, encoding='utf-8')


def _write_voc(out: Path, contents: dict[str, dict], classes: tuple[str, ...]) -> None:
    for folder in ('Annotations', 'ImageSets/Main', 'JPEGImages'):
        (out / folder).mkdir(parents=True)
    for split, content in contents.items():
        boxes = _boxes_of(content)
        for image in content['images']:
            root = ElementTree.Element('annotation')
            _add(root, filename=image['file_name'])
            _add(ElementTree.SubElement(root, 'size'), width=image['width'], height=image['height'], depth=3)
            for annotation in boxes[image['id']]:
                item = ElementTree.SubElement(root, 'object')
                _add(item, name=classes[annotation['category_id']], difficult=annotation['iscrowd'])
                x, y, w, h = annotation['bbox']
                x1, y1 = (min(round(low), side - 1) for low, side in ((x, image['width']), (y, image['height'])))
                x2, y2 = max(round(x + w), x1 + 1), max(round(y + h), y1 + 1)
                _add(ElementTree.SubElement(item, 'bndbox'), xmin=x1, ymin=y1, xmax=x2, ymax=y2)
            ElementTree.indent(root)
            stem = Path(image['file_name']).stem
            ElementTree.ElementTree(root).write(out / 'Annotations' / f'{stem}.xml', encoding='utf-8')
        names = ''.join(f'{Path(image["file_name"]).stem}\n' for image in content['images'])
        (out / 'ImageSets' / 'Main' / f'{split}.txt').write_text(names, encoding='utf-8')


def _add(parent: ElementTree.Element, **values: object) -> None:
    for name, value in values.items():
        ElementTree.SubElement(parent, name).text = str(value)


if __name__ == '__main__':
    main()
