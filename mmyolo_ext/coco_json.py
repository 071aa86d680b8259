"""Read COCO annotation files, and check the parsed JSON by pure functions, whose errors name the file and the entry.

Letters: G boxes.
"""

import difflib
import json
import math
import os
import posixpath
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from mmyolo_ext.image_io import read_bytes

SHOWN = 5  # examples named in an error
SUM_TOLERANCE = 2e-3  # of soft labels, as in the heads: the error of three decimals
LARGEST_ID = 2**63 - 1  # of the evaluators
LARGEST_SIDE = 1_000_000  # px, of sizes and coordinates
NUMBERS = frozenset((int, float))  # in JSON; bool is excluded
UNKNOWN = 'of an unknown image', 'of an unknown category'
FAULTS = (
    *UNKNOWN,
    'not four finite numbers',
    f'with a number above {LARGEST_SIDE:,}',
    'of zero or negative size',
    'outside the image',
    'under one pixel',
)
NEEDED = {
    'images': ('id', 'file_name', 'width', 'height'),
    'categories': ('id', 'name'),
    'annotations': ('id', 'image_id', 'category_id', 'bbox'),
}

Content = TypeVar('Content')
_kept: dict[tuple, object] | None = None


def keep_annotations() -> None:
    """Let all that is built from here to :func:`drop_annotations` share what it reads of the same files."""
    global _kept
    _kept = {}


def drop_annotations() -> None:
    """Forget the annotations that were kept."""
    global _kept
    _kept = None


def keeps_annotations() -> bool:
    """Return whether what is read now is kept for later readers."""
    return _kept is not None


def read_once(key: Hashable, files: Iterable[str | Path], read: Callable[[], Content]) -> Content:
    """Return ``read()``; while annotations are kept, what it returned before for the key and unchanged files."""
    if _kept is None:
        return read()
    key = key, hash(tuple(map(_state, files)))  # the states themselves may be of 100,000 files
    if key not in _kept:
        _kept[key] = read()
    return _kept[key]


def _state(file: str | Path) -> tuple:
    try:
        state = os.stat(file)
    except OSError:
        return str(file), None
    return str(file), state.st_mtime_ns, state.st_size


def read_coco(path: str, backend_args: dict | None = None, content: bytes | None = None) -> dict:
    """Parse an annotation file, or its ``content`` if that has been read.

    Raises:
        ValueError: If it is missing, not JSON (with line and column), or has no list ``images`` or ``categories``;
            a missing ``annotations`` reads as empty.
    """
    if backend_args or '://' in path:  # files without a state
        return _parse(path, backend_args, content)
    return read_once(('COCO', os.path.abspath(path)), [path], lambda: _parse(path, None, content))


def _parse(path: str, backend_args: dict | None, content: bytes | None) -> dict:
    try:
        content = content or read_bytes(path, backend_args, 'check data_root and ann_file')
        content = json.loads(content.decode('utf-8-sig'))
    except json.JSONDecodeError as error:
        raise ValueError(
            f'annotation file {path} is broken JSON at line {error.lineno}, column {error.colno}: {error.msg}'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'annotation file {path} is not UTF-8 text: {error}') from error
    except RecursionError as error:
        raise ValueError(
            f'annotation file {path} is not a COCO file: its lists or objects are nested too deeply'
        ) from error
    except ValueError as error:  # from reading, or numbers with thousands of digits
        raise ValueError(f'cannot read annotation file {path}: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'annotation file {path} must hold a JSON object, got a {type(content).__name__}')
    content.setdefault('annotations', [])
    for key in NEEDED:
        if not isinstance(content.get(key), list):
            raise ValueError(f'annotation file {path} must hold a list "{key}", it has the keys {sorted(content)}')
    return content


def check_entries(content: dict, path: str) -> None:
    """Check required fields, their types, and that ids are unique; convert image sizes to int, in place.

    Raises:
        ValueError: On a missing field, an id that is not an integer, a name that is not text, a size that is not a
            positive integer, a repeated id or name, or a file without images.
    """
    for kind, fields in NEEDED.items():
        for entry in content[kind]:
            if type(entry) is not dict:
                raise ValueError(f'{path}: an entry of "{kind}" must be a JSON object, got {_brief(entry)}')
            if not entry.keys() >= set(fields):
                missing = [field for field in fields if field not in entry]
                raise ValueError(f'{path}: an entry of "{kind}" lacks {", ".join(missing)}: {_brief(entry)}')
        for field in (field for field in fields if field.endswith('id')):
            _check_ids(content[kind], kind, field, path)
        _check_unique([entry['id'] for entry in content[kind]], f'ids in "{kind}"', path)
    for kind, field in (('categories', 'name'), ('images', 'file_name')):
        for entry in content[kind]:
            if not _is_text(entry[field]):
                raise ValueError(f'{path}: {field} of an entry of "{kind}" must be text, got {_brief(entry)}')
    _check_unique([category['name'] for category in content['categories']], 'names in "categories"', path)
    for image in content['images']:
        for side in ('width', 'height'):
            value = image[side]
            if not _is_number(value) or not 0 < value <= LARGEST_SIDE or value != int(value):
                raise ValueError(
                    f'{path}: width and height of an image must be integers above 0, got {side}={_brief(value)} '
                    f'({type(value).__name__}): {_brief(image)}'
                )
            image[side] = int(value)
    for annotation in content['annotations']:
        for flag in ('iscrowd', 'ignore'):
            if flag in annotation and annotation[flag] not in (0, 1, None):
                raise ValueError(f'{path}: {flag} must be 0 or 1, got {_brief(annotation)}')
    if not content['images']:
        raise ValueError(f'{path} has no images')


def check_file_name(name: str, folder: str, root: str | None, allow_outside: bool, path: str) -> str:
    """Return the path of an image in an annotation file.

    Args:
        name: ``file_name`` of the entry, with ``/`` or, from Windows, ``\\`` between folders.
        folder: The folder of the images.
        root: ``data_root``; the image must be inside it, or inside ``folder`` if there is none.
        allow_outside: Permit absolute paths and paths outside the root.
        path: The annotation file.

    Raises:
        ValueError: If the name is a URL, or outside the root without ``allow_outside``.
    """
    portable = name.replace('\\', '/')
    if '://' in portable:
        raise ValueError(f'{path}: file_name {name!r} is a URL: download the images and use file names')
    absolute = portable.startswith('/') or re.match('[A-Za-z]:/', portable)
    if allow_outside:
        return portable if absolute else posixpath.join(folder, portable)
    advice = 'use paths inside data_root, or set allow_outside=True of the dataset'
    if absolute:
        raise ValueError(f'{path}: file_name {name!r} is an absolute path: {advice}')
    full = posixpath.join(folder, portable)
    if '..' in portable.split('/') and posixpath.relpath(full, root or folder).split('/')[0] == '..':
        raise ValueError(f'{path}: file_name {name!r} is outside {root or folder}: {advice}')
    return full


def label_categories(categories: list[dict], classes: Sequence[str], path: str) -> dict[int, int]:
    """Return the label, an index into ``classes``, of each category id; other categories are left out.

    mmdet's COCO metric orders labels as in the file, so ``classes`` must have that order.

    Raises:
        ValueError: If a class is not a category of the file, or the order differs.
    """
    names = [category['name'] for category in categories]
    both = f'{path} has the categories {tuple(names)}, metainfo classes are {tuple(classes)}'
    missing = [name for name in classes if name not in names]
    if missing:
        hints = [f'did you mean {hint!r} by {name!r}?' for name in missing if (hint := _nearest(name, names))]
        raise ValueError(
            f'{both}: {", ".join(map(repr, missing))} not in the file. '
            f'{" ".join(hints) or "Set class_names (metainfo classes) to the names in the file."}'
        )
    in_file_order = tuple(name for name in names if name in classes)
    if in_file_order != tuple(classes):
        raise ValueError(f'{both}: write the classes in the order of the file, {in_file_order}, each once')
    ids = {category['name']: category['id'] for category in categories}
    return {ids[name]: label for label, name in enumerate(classes)}


def check_boxes(
    content: dict,
) -> tuple[np.ndarray, list[str | None], np.ndarray, np.ndarray, np.ndarray]:
    """Read the boxes of all annotations and clip them to their images.

    Args:
        content: As parsed, with the fields of :func:`check_entries`.

    Returns:
        Boxes (G, 4) xyxy px, clipped; the fault of each, or None; whether each was clipped (G,); boxes as in the file,
        (G, 4) xywh, NaN where they are not numbers; and the size of the image of each, (G, 2) px.
    """
    image_wh = {image['id']: (image['width'], image['height']) for image in content['images']}
    category_ids = {category['id'] for category in content['categories']}
    bboxes_xywh = [annotation['bbox'] for annotation in content['annotations']]
    sizes_wh = [image_wh.get(annotation['image_id'], (np.nan, np.nan)) for annotation in content['annotations']]
    sizes_wh = np.array(sizes_wh, np.float64).reshape(-1, 2)
    known_category = [annotation['category_id'] in category_ids for annotation in content['annotations']]
    xywh = np.full((len(bboxes_xywh), 4), np.nan)
    usable = [
        number
        for number, box in enumerate(bboxes_xywh)
        if type(box) is list and len(box) == 4 and NUMBERS.issuperset(map(type, box))
    ]
    try:
        xywh[usable] = np.array([bboxes_xywh[number] for number in usable], np.float64).reshape(-1, 4)
    except OverflowError:  # integers of hundreds of digits
        for number in usable:
            box = [min(max(value, -1e300), 1e300) for value in bboxes_xywh[number]]
            xywh[number] = box
    with np.errstate(invalid='ignore', over='ignore'):
        low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
        xyxy = np.concatenate([low.clip(0), np.minimum(high, sizes_wh)], 1)
        clipped = (low < 0).any(1) | (high > sizes_wh).any(1)
        seen = xyxy[:, 2:] - xyxy[:, :2]
        faults = (
            np.isnan(sizes_wh).any(1),
            ~np.array(known_category, bool),
            ~np.isfinite(xywh).all(1),
            (np.abs(xywh) > LARGEST_SIDE).any(1),
            (xywh[:, 2:] <= 0).any(1),
            (seen <= 0).any(1),
            (seen < 1).any(1),
        )
    reasons = [(*FAULTS, None)[number] for number in np.select(faults, range(len(FAULTS)), -1)]
    return xyxy, reasons, clipped, xywh, sizes_wh


def list_faults(faults: dict[str, list[int]]) -> str:
    """Return one line on annotations, given by their ids for each fault."""
    return '; '.join(
        f'{len(ids)} {fault} (annotation {", ".join(map(str, ids[:SHOWN]))}{", ..." if len(ids) > SHOWN else ""})'
        for fault, ids in faults.items()
    )


def check_soft_label(annotation: dict, num_classes: int, exclusive: bool, path: str) -> list[float]:
    """Return the ``soft_label`` of an annotation, a probability for each class.

    Raises:
        ValueError: Unless it has one number in [0, 1] for each class, with sum 1 if the classes are exclusive.
    """
    probabilities = annotation['soft_label']
    if (
        not isinstance(probabilities, list)
        or len(probabilities) != num_classes
        or not all(map(_is_number, probabilities))
    ):
        rule = f'a list of {num_classes} numbers, one for each of metainfo classes'
    elif not all(0 <= value <= 1 for value in probabilities):
        rule = 'numbers in [0, 1]'
    elif exclusive and abs(sum(probabilities) - 1) > SUM_TOLERANCE:
        rule = 'numbers with sum 1; if a box may have several classes, set exclusive_soft_labels=False'
    else:
        return probabilities
    raise ValueError(
        f'{path}: soft_label of annotation {annotation["id"]} must be {rule}; got {_brief(probabilities)}'
    )


def split_images(content: dict, fractions: Sequence[float], seed: int) -> list[list[int]]:
    """Split the images into parts in which each class, and background, has its share of images.

    Iterative stratification (Sechidis et al. 2011): the images of the rarest class come first, each of them goes to
    the part that lacks this class most.

    Args:
        content: Of a COCO file.
        fractions: (P) shares of the parts, with sum 1.
        seed: Of the order within a class.

    Returns:
        (P) ascending indices into ``content['images']``; no part is empty if there are as many images.
    """
    places = {image['id']: index for index, image in enumerate(content['images'])}
    classes_of: list[set] = [set() for _ in places]
    for annotation in content['annotations']:
        if annotation['image_id'] in places:
            classes_of[places[annotation['image_id']]].add(annotation['category_id'])
    images_of = defaultdict(list)
    for index in np.random.default_rng(seed).permutation(len(places)).tolist():
        for label in classes_of[index] or {None}:  # None: background
            images_of[label].append(index)
    lacking = {label: [share * len(own) for share in fractions] for label, own in images_of.items()}
    left = {label: len(own) for label, own in images_of.items()}
    room, part_of = [share * len(places) for share in fractions], {}
    while left:
        label = min(left, key=lambda name: (left[name], str(name)))
        for index in images_of[label]:
            if index not in part_of:
                part_of[index] = part = max(
                    range(len(room)), key=lambda number: (lacking[label][number], room[number])
                )
                room[part] -= 1
                for own in classes_of[index] or {None}:
                    lacking[own][part] -= 1
                    left[own] -= 1
        del left[label]
    parts = [[index for index in range(len(places)) if part_of[index] == part] for part in range(len(room))]
    for part in parts:
        largest = max(parts, key=len)
        if not part and len(largest) > 1:
            part.append(largest.pop())
    return parts


def take_images(content: dict, indices: Sequence[int]) -> dict:
    """Return the content with only the images at ``indices``, and their annotations."""
    images = [content['images'][index] for index in indices]
    ids = {image['id'] for image in images}
    annotations = [annotation for annotation in content['annotations'] if annotation['image_id'] in ids]
    return {**content, 'images': images, 'annotations': annotations}


def take_classes(content: dict, classes: Sequence[str]) -> dict:
    """Return the content with the classes as its only categories, whose ids are their positions.

    Args:
        content: Of a reader of another format. An annotation with an ``error`` could not be read.
        classes: Names of the classes.

    Raises:
        ValueError: If an annotation of the classes has an ``error``.
    """
    labels = {name: label for label, name in enumerate(classes)}
    label_of = {category['id']: labels.get(category['name']) for category in content['categories']}
    annotations = []
    for annotation in content['annotations']:
        label = label_of[annotation['category_id']]
        if label is not None:
            if 'error' in annotation:
                raise ValueError(annotation['error'])
            annotations.append({**annotation, 'id': len(annotations) + 1, 'category_id': label})
    dropped, others = Counter(content.get('dropped')), len(content['annotations']) - len(annotations)
    dropped += Counter({'of another class': others})
    categories = [{'id': label, 'name': name} for name, label in labels.items()]
    return {**content, 'annotations': annotations, 'categories': categories, 'dropped': dict(dropped)}


def _is_number(value: object) -> bool:
    try:
        return type(value) in NUMBERS and math.isfinite(value)
    except OverflowError:  # an integer beyond any float
        return False


def _is_text(value: object) -> bool:
    """Return whether it is a string, not blank and without lone surrogates, which file names cannot contain."""
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def _check_ids(entries: list[dict], kind: str, field: str, path: str) -> None:
    for entry in entries:
        if type(entry[field]) is not int or not -LARGEST_ID <= entry[field] <= LARGEST_ID:
            raise ValueError(
                f'{path}: {field} of an entry of "{kind}" must be an integer, as COCO\'s evaluation requires, got '
                f'{_brief(entry[field])} ({type(entry[field]).__name__}): {_brief(entry)}'
            )


def _check_unique(values: list, what: str, path: str) -> None:
    repeated = [value for value, times in Counter(values).items() if times > 1]
    if repeated:
        raise ValueError(f'{path}: {len(repeated)} {what} are not unique, among them {repeated[:SHOWN]}')


def _nearest(name: str, names: Sequence[str]) -> str | None:
    folded = {other.casefold().strip(): other for other in names}
    found = difflib.get_close_matches(name.casefold().strip(), folded, n=1)
    return folded[found[0]] if found else None


def _brief(entry: object) -> str:
    text = repr(entry) if not isinstance(entry, int) or abs(entry) <= LARGEST_ID else 'a huge number'
    return text if len(text) <= 200 else text[:200] + '...'
