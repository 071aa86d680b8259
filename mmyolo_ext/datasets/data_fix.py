"""Repair what needs no judgement in a data set, as the content of new COCO files."""

import os
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmyolo_ext.datasets.data_check import other_format
from mmyolo_ext.datasets.image_facts import ImageFacts
from mmyolo_ext.datasets.raw_labels import RawSplit

KEPT_FIRST = ('test', 'val', 'train')  # of copies, that of the first split stays: scores stay comparable
SAME_SHAPE = 0.02  # relative difference of the factors by which width and height of an image differ from its label


def fix_splits(
    raw: Sequence[RawSplit], facts: dict[str, ImageFacts]
) -> tuple[dict[str, dict], tuple[str, ...], list[str]]:
    """Return the repaired splits.

    Left out are images that cannot be read, copies of images, images whose size contradicts their labels, and boxes
    that are outside, empty, under one pixel or repeated. Boxes are clipped, scaled to the size of the file, and
    converted if all of a split are in another format. Class names that differ by case alone become one class.

    Returns:
        The content of a COCO file of each split, whose images have a ``path`` and whose category ids are positions in
        the class names; the class names; and lines on what was changed.
    """
    spelled: dict[str, str] = {}
    for name in (name for split in raw for name in split.classes):
        spelled.setdefault(_plain(name), name)
    classes = tuple(spelled.values())
    merged = len({name for split in raw for name in split.classes}) - len(classes)
    seen: set[bytes] = set()
    contents, changes = {}, {}
    for split in sorted(raw, key=lambda one: KEPT_FIRST.index(one.name)):
        changes[split.name] = Counter()
        labels = [classes.index(spelled[_plain(name)]) for name in split.classes]
        contents[split.name] = _fix(split, facts, labels, seen, changes[split.name])
    names = [split.name for split in raw]
    lines = [f'{name}: {count} {what}' for name in names for what, count in changes[name].items() if count]
    return (
        {name: contents[name] for name in names},
        classes,
        [*lines, *[f'{merged} class names merged'] * (merged > 0)],
    )


def _plain(name: str) -> str:
    return ' '.join(name.split()).casefold()


def _fix(
    split: RawSplit, facts: dict[str, ImageFacts], labels: Sequence[int], seen: set[bytes], changes: Counter
) -> dict:
    real = np.array([facts[path].size_wh or (np.nan, np.nan) for path in split.paths], np.float64).reshape(-1, 2)
    stated = np.where(np.isnan(split.sizes_wh), real, split.sizes_wh)
    boxes = _converted(split, stated[split.image], changes)
    content: dict[str, list] = {'images': [], 'annotations': []}
    order = np.argsort(split.image, kind='stable')
    starts = np.searchsorted(split.image[order], np.arange(len(split.paths) + 1))
    for number, path in enumerate(split.paths):
        fact, factors = facts[path], real[number] / stated[number]
        if fact.size_wh is None:
            changes['images that cannot be read are left out'] += 1
        elif fact.digest in seen:
            changes['copies of images are left out'] += 1
        elif abs(factors[0] / factors[1] - 1) > SAME_SHAPE:
            changes['images whose size contradicts their labels are left out'] += 1
        else:
            seen.add(fact.digest)
            image = {'id': number + 1, 'file_name': os.path.basename(path), 'path': path}
            content['images'].append({**image, 'width': fact.size_wh[0], 'height': fact.size_wh[1]})
            changes['sizes of images corrected'] += bool((factors != 1).any())
            own = order[starts[number] : starts[number + 1]]
            content['annotations'] += _boxes(
                split, own, boxes[own] * np.tile(factors, 2), real[number], labels, changes
            )
    for index, annotation in enumerate(content['annotations'], 1):
        annotation['id'] = index
    broken = sum(check in ('label-broken', 'class-out-of-range', 'unknown-image') for check, _, _ in split.faults)
    changes['broken labels are left out'] += broken
    return content


def _converted(split: RawSplit, sizes: np.ndarray, changes: Counter) -> np.ndarray:
    """Return the boxes xyxy of a split, read in the format that they fit."""
    check = other_format(split, sizes)
    if check is None:
        return split.boxes_xyxy
    changes[f'boxes converted ({check})'] += len(split.numbers)
    first, second = split.numbers[:, :2], split.numbers[:, 2:]
    if check == 'axes-swapped':
        return split.boxes_xyxy[:, [1, 0, 3, 2]]
    if check == 'boxes-relative':
        return split.boxes_xyxy * np.tile(sizes, 2)
    if check == 'boxes-xyxy':
        return split.numbers
    start = first - second / 2 if check == 'boxes-cxcywh' else first
    return np.concatenate([start, start + second], 1)


def _boxes(
    split: RawSplit,
    own: np.ndarray,
    boxes: np.ndarray,
    size_wh: np.ndarray,
    labels: Sequence[int],
    changes: Counter,
) -> list[dict]:
    """Return the annotations of one image."""
    kept, annotations = set(), []
    for index, box in zip(own, boxes, strict=True):
        x1, y1, x2, y2 = np.clip(box, 0, np.tile(size_wh, 2)).tolist()
        label = int(split.labels[index])
        if not (x2 - x1 >= 1 and y2 - y1 >= 1 and 0 <= label < len(labels)):  # NaN fails as well
            changes['boxes outside, empty or under one pixel are left out'] += 1
        elif (label, x1, y1, x2, y2) in kept:
            changes['repeated boxes are left out'] += 1
        else:
            kept.add((label, x1, y1, x2, y2))
            changes['boxes clipped'] += [x1, y1, x2, y2] != box.tolist()
            annotations.append(
                {
                    'image_id': int(split.image[index]) + 1,
                    'category_id': labels[label],
                    'bbox': [x1, y1, x2 - x1, y2 - y1],
                    'area': (x2 - x1) * (y2 - y1),
                    'iscrowd': int(split.ignored[index]),
                }
            )
    return annotations
