"""What a COCO annotation file may hold, checked before it is believed.

Pure functions on the parsed JSON; every error names the file and the entry.
"""

import difflib
import json
import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from mmengine import fileio

SHOWN = 5  # examples named in an error
SUM_TOLERANCE = 2e-3  # of soft labels, as the heads have it: what three decimals in a file leave


class CheckedBox(NamedTuple):
    """``xyxy`` px clipped to the picture, or None with ``fault``, the reason; ``clipped``: it reached beyond."""

    xyxy: tuple[float, float, float, float] | None
    fault: str | None = None
    clipped: bool = False


def read_coco(path: str, backend_args: dict | None = None) -> dict:
    """Parse an annotation file.

    Raises:
        ValueError: If it is missing, no JSON (with line and column), or lacks the lists ``images`` or ``categories``;
            a missing ``annotations`` reads as none.
    """
    try:
        text = fileio.get_text(path, backend_args=backend_args)
        content = json.loads(text)
    except OSError as error:
        raise ValueError(
            f'cannot read annotation file {path}: {error.strerror or error} (check data_root and ann_file)'
        ) from error
    except json.JSONDecodeError as error:
        raise ValueError(
            f'annotation file {path} is broken JSON at line {error.lineno}, column {error.colno}: {error.msg}'
        ) from error
    except UnicodeDecodeError as error:
        raise ValueError(f'annotation file {path} is no UTF-8 text: {error}') from error
    if not isinstance(content, dict):
        raise ValueError(f'annotation file {path} must hold a JSON object, got a {type(content).__name__}')
    content.setdefault('annotations', [])
    for key in ('images', 'categories', 'annotations'):
        if not isinstance(content.get(key), list):
            raise ValueError(f'annotation file {path} must hold a list "{key}", it has the keys {sorted(content)}')
    return content


def check_entries(content: dict, path: str) -> None:
    """Hold images, categories and annotations to the fields that are needed and to ids of their own.

    Raises:
        ValueError: On a missing field, sides that are not positive, a repeated id, or no image at all.
    """
    needed = {
        'images': ('id', 'file_name', 'width', 'height'),
        'categories': ('id', 'name'),
        'annotations': ('id', 'image_id', 'category_id', 'bbox'),
    }
    for kind, fields in needed.items():
        for entry in content[kind]:
            if not isinstance(entry, dict):
                raise ValueError(f'{path}: an entry of "{kind}" must be a JSON object, got {_brief(entry)}')
            missing = [field for field in fields if field not in entry]
            if missing:
                raise ValueError(f'{path}: an entry of "{kind}" lacks {", ".join(missing)}: {_brief(entry)}')
        _check_unique([entry['id'] for entry in content[kind]], f'ids in "{kind}"', path)
    _check_unique([category['name'] for category in content['categories']], 'names in "categories"', path)
    for image in content['images']:
        if not all(_is_number(image[side]) and image[side] > 0 for side in ('width', 'height')):
            raise ValueError(f'{path}: width and height of an image must be above 0: {_brief(image)}')
    if not content['images']:
        raise ValueError(f'{path} lists no image')


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


def check_box(bbox_xywh: Sequence[float], width: float, height: float) -> CheckedBox:
    """Read a COCO box and clip it to its picture."""
    if not isinstance(bbox_xywh, list) or len(bbox_xywh) != 4 or not all(map(_is_number, bbox_xywh)):
        return CheckedBox(None, 'not four finite numbers')
    x1, y1, w, h = bbox_xywh
    if w <= 0 or h <= 0:
        return CheckedBox(None, 'of zero or negative size')
    seen = max(x1, 0), max(y1, 0), min(x1 + w, width), min(y1 + h, height)
    seen_w, seen_h = seen[2] - seen[0], seen[3] - seen[1]
    if seen_w <= 0 or seen_h <= 0:
        return CheckedBox(None, 'outside the picture')
    if seen_w < 1 or seen_h < 1:
        return CheckedBox(None, 'under one pixel')
    return CheckedBox(seen, clipped=seen != (x1, y1, x1 + w, y1 + h))


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
    return type(value) in (int, float) and math.isfinite(value)  # what JSON knows; True is no number


def _check_unique(values: list, what: str, path: str) -> None:
    repeated = [value for value, times in Counter(values).items() if times > 1]
    if repeated:
        raise ValueError(f'{path}: {len(repeated)} {what} are not unique, among them {repeated[:SHOWN]}')


def _nearest(name: str, names: Sequence[str]) -> str | None:
    folded = {other.casefold().strip(): other for other in names}
    found = difflib.get_close_matches(name.casefold().strip(), folded, n=1)
    return folded[found[0]] if found else None


def _brief(entry: object) -> str:
    text = str(entry)
    return text if len(text) <= 200 else text[:200] + '...'
