"""What a COCO annotation file may hold, checked before it is believed.

Pure functions on the parsed JSON; every error names the file and the entry.

Letters: G boxes.
"""

import difflib
import json
import math
import posixpath
import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from mmyolo_ext.image_io import read_bytes

SHOWN = 5  # examples named in an error
SUM_TOLERANCE = 2e-3  # of soft labels, as the heads have it: what three decimals in a file leave
LARGEST_ID = 2**63 - 1  # that evaluators hold
LARGEST_SIDE = 1_000_000  # px; beyond, a number is no side of an image and no coordinate in one
NUMBERS = frozenset((int, float))  # what JSON knows; True is no number
FAULTS = (
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


def read_coco(path: str, backend_args: dict | None = None) -> dict:
    """Parse an annotation file.

    Raises:
        ValueError: If it is missing, no JSON (with line and column), or lacks the lists ``images`` or ``categories``;
            a missing ``annotations`` reads as none.
    """
    try:
        content = json.loads(read_bytes(path, backend_args, 'check data_root and ann_file').decode('utf-8'))
    except json.JSONDecodeError as error:
        raise ValueError(
            f'annotation file {path} is broken JSON at line {error.lineno}, column {error.colno}: {error.msg}'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'annotation file {path} is no UTF-8 text: {error}') from error
    except RecursionError as error:
        raise ValueError(
            f'annotation file {path} is no COCO file: its lists or objects are nested too deeply'
        ) from error
    except ValueError as error:  # of reading, and of numbers with thousands of digits
        raise ValueError(f'cannot read annotation file {path}: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'annotation file {path} must hold a JSON object, got a {type(content).__name__}')
    content.setdefault('annotations', [])
    for key in NEEDED:
        if not isinstance(content.get(key), list):
            raise ValueError(f'annotation file {path} must hold a list "{key}", it has the keys {sorted(content)}')
    return content


def check_entries(content: dict, path: str) -> None:
    """Check that images, categories and annotations have the fields that are needed, of the right types, and unique
    ids. The sides of images become whole numbers in place.

    Raises:
        ValueError: On a missing field, an id that is no whole number, a name that is no text, sides that are not
            positive whole numbers, a repeated id or name, or no image at all.
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
                    f'{path}: width and height of an image must be whole numbers above 0, got {side}={_brief(value)} '
                    f'({type(value).__name__}): {_brief(image)}'
                )
            image[side] = int(value)
    for annotation in content['annotations']:
        for flag in ('iscrowd', 'ignore'):
            if flag in annotation and annotation[flag] not in (0, 1, None):
                raise ValueError(f'{path}: {flag} must be 0 or 1, got {_brief(annotation)}')
    if not content['images']:
        raise ValueError(f'{path} lists no image')


def check_file_name(name: str, folder: str, root: str | None, allow_outside: bool, path: str) -> str:
    """The path of an image that an annotation file names.

    Args:
        name: ``file_name`` of the entry, with ``/`` or, as written on Windows, ``\\`` between folders.
        folder: The folder of the images.
        root: ``data_root``; the image must be inside it, or inside ``folder`` if there is none.
        allow_outside: Permit absolute names and names that lead out of the root.
        path: The annotation file.

    Raises:
        ValueError: If the name is an address, or leads out of the root without ``allow_outside``.
    """
    portable = name.replace('\\', '/')
    if '://' in portable:
        raise ValueError(f'{path}: file_name {name!r} is an address: download the images, and name files')
    absolute = portable.startswith('/') or re.match('[A-Za-z]:/', portable)
    if allow_outside:
        return portable if absolute else posixpath.join(folder, portable)
    advice = 'name files in data_root, or permit it by allow_outside=True of the data set'
    if absolute:
        raise ValueError(f'{path}: file_name {name!r} is an absolute path: {advice}')
    full = posixpath.join(folder, portable)
    if '..' in portable.split('/') and posixpath.relpath(full, root or folder).split('/')[0] == '..':
        raise ValueError(f'{path}: file_name {name!r} leads out of {root or folder}: {advice}')
    return full


def label_categories(categories: list[dict], classes: Sequence[str], path: str) -> dict[int, int]:
    """Which category id is which label, the position in ``classes``; categories beyond ``classes`` have none.

    mmdet's COCO metric counts labels in the order of the file, so ``classes`` must keep it.

    Raises:
        ValueError: If a class is no category of the file, or the order differs; both lists are named.
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
    bboxes_xywh: Sequence[object], sizes_wh: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read COCO boxes and clip them to their images.

    Args:
        bboxes_xywh: (G) as they stand in the file; anything but a list of four numbers is a fault.
        sizes_wh: (G, 2) px of their images.

    Returns:
        Boxes (G, 4) xyxy px, clipped; the number in :data:`FAULTS` of what is wrong with each, -1 if nothing (G,);
        whether each reached beyond its image (G,); and the boxes as they came, (G, 4) xywh, NaN where they are no
        numbers.
    """
    xywh = np.full((len(bboxes_xywh), 4), np.nan)
    usable = [
        number
        for number, box in enumerate(bboxes_xywh)
        if type(box) is list and len(box) == 4 and NUMBERS.issuperset(map(type, box))
    ]
    try:
        xywh[usable] = np.array([bboxes_xywh[number] for number in usable], np.float64).reshape(-1, 4)
    except OverflowError:  # whole numbers of hundreds of digits
        for number in usable:
            box = [min(max(value, -1e300), 1e300) for value in bboxes_xywh[number]]
            xywh[number] = box
    with np.errstate(invalid='ignore', over='ignore'):
        low, high = xywh[:, :2], xywh[:, :2] + xywh[:, 2:]
        xyxy = np.concatenate([low.clip(0), np.minimum(high, sizes_wh)], 1)
        clipped = (low < 0).any(1) | (high > sizes_wh).any(1)
        seen = xyxy[:, 2:] - xyxy[:, :2]
        faults = (
            ~np.isfinite(xywh).all(1),
            (np.abs(xywh) > LARGEST_SIDE).any(1),
            (xywh[:, 2:] <= 0).any(1),
            (seen <= 0).any(1),
            (seen < 1).any(1),
        )
    return xyxy, np.select(faults, range(len(FAULTS)), -1), clipped, xywh


def check_soft_label(annotation: dict, num_classes: int, exclusive: bool, path: str) -> list[float]:
    """The ``soft_label`` of an annotation: a share for each class.

    Raises:
        ValueError: Unless they are as many numbers in [0, 1] as there are classes, and for exclusive classes sum to 1.
    """
    shares = annotation['soft_label']
    if not isinstance(shares, list) or len(shares) != num_classes or not all(map(_is_number, shares)):
        rule = f'a list of {num_classes} numbers, one for each of metainfo classes'
    elif not all(0 <= share <= 1 for share in shares):
        rule = 'shares in [0, 1]'
    elif exclusive and abs(sum(shares) - 1) > SUM_TOLERANCE:
        rule = 'shares that sum to 1; if a box may be of several classes, set exclusive_soft_labels=False'
    else:
        return shares
    raise ValueError(f'{path}: soft_label of annotation {annotation["id"]} must be {rule}; got {_brief(shares)}')


def _is_number(value: object) -> bool:
    try:
        return type(value) in NUMBERS and math.isfinite(value)
    except OverflowError:  # a whole number beyond any float
        return False


def _is_text(value: object) -> bool:
    """Not of blanks alone, and with no half of a character, which JSON can hold and no file name or log can."""
    try:
        return isinstance(value, str) and bool(value.strip()) and bool(value.encode())
    except UnicodeEncodeError:
        return False


def _check_ids(entries: list[dict], kind: str, field: str, path: str) -> None:
    for entry in entries:
        if type(entry[field]) is not int or not -LARGEST_ID <= entry[field] <= LARGEST_ID:
            raise ValueError(
                f'{path}: {field} of an entry of "{kind}" must be a whole number, as COCO\'s evaluation needs it, got '
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
