"""Check a data set before training: files, labels, classes and splits, each fault with its images and a cure.

Letters: N images, G boxes.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from mmyolo_ext.boxes import guess_format
from mmyolo_ext.datasets.image_facts import ImageFacts, inspect_images, near_pairs
from mmyolo_ext.datasets.label_errors import iou, suspect_labels
from mmyolo_ext.datasets.raw_labels import RawSplit, read_split

SEVERITIES = ('error', 'warning', 'note')
MANY = 300  # boxes of an image; validation keeps as many detections
FEW_BOXES, FEW_TRAIN, FEW_VAL = 20, 100, 20
IMBALANCE = 100  # boxes of the most frequent class for each of the rarest
THIN_BOX, THIN_IMAGE, SMALL_IMAGE, HUGE_IMAGE = 20, 10, 32, 16e6  # ratio of sides, ratio of sides, px, px of area
SAME_IOU = 0.9  # of two boxes that mark one object
REPEATED_SHARE, MIN_REPEATED = 0.1, 10  # of the images that have the very same box
BACKGROUND_SHARE = 0.5
DARK, BRIGHT = 12, 243  # mean grey level
BLUR_SHARE, MIN_IMAGES = 0.05, 10  # of the median sharpness; images that give a median
FEWEST_PX, SMALL_PX = 2, 8  # sides in the network input: training drops the first, stride 8 barely sees the second
RECALL = 0.98  # of anchors
RATIO = 4  # of the sides of a box and an anchor that match

# name: (severity, what was found, cure)
CHECKS = {
    # files
    'data-refused': ('error', 'training refuses the data set', 'see the message; what could be read is checked below'),
    'image-missing': ('error', 'labelled images do not exist', 'copy the images, or remove their labels'),
    'image-empty': ('error', 'image files have no content', 'copy the images again'),
    'image-truncated': ('error', 'image files are cut short', 'copy the images again'),
    'image-unreadable': ('error', 'image files cannot be decoded', 'replace or remove the images'),
    'path-outside': ('error', 'file names point outside of the data set', 'use paths inside the folder of the data'),
    'size-differs': (
        'error',
        'images differ in size from their label file',
        'write the size of the file; scale boxes',
    ),
    'size-turned': ('error', 'labels ignore the EXIF rotation of their image', 'label images as a viewer shows them'),
    'image-damaged': ('warning', 'JPEG files hold more than their image', 'copy the images again'),
    'listed-twice': ('warning', 'images are listed more than once in a split', 'list each image once'),
    'names-by-case': ('warning', 'file names differ by case alone', 'rename them: some file systems keep one only'),
    'image-suffix': ('note', 'files have the suffix of another format', 'rename them'),
    'exif-rotated': ('note', 'images have an EXIF rotation, which training applies', 'look at some boxes'),
    'bits-16': ('warning', 'images have 16 bits per channel and are scaled to 8', 'stretch dark ones first'),
    'transparent': ('note', 'images have transparent parts, whose hidden colours are read', 'paint a background'),
    'animated': ('note', 'images are animations, of which the first frame is read', 'extract the frames'),
    'single-colour': ('warning', 'images have one colour only', 'remove them, or export them again'),
    'dark': ('note', 'images are nearly black', 'look at them: is the exposure right?'),
    'bright': ('note', 'images are nearly white', 'look at them: is the exposure right?'),
    'blurred': ('note', 'images are far less sharp than the others', 'look at them: can their objects be seen?'),
    'grey-among-colour': ('note', 'grey images are among coloured ones', 'check that all images come from one source'),
    'small-image': ('warning', f'images have a side below {SMALL_IMAGE} px', 'remove thumbnails'),
    'long-image': ('warning', f'images are over {THIN_IMAGE} times as long as wide', 'cut them into tiles'),
    'huge-image': ('note', 'images have over 16 million pixels', 'train and predict on tiles if objects are small'),
    'image-without-label': ('note', 'images in the folders have no label entry', 'label or remove them'),
    'orphan-label': ('warning', 'label files belong to no image', 'copy the images, or remove the labels'),
    'duplicate-image': ('warning', 'images have the content of another one of their split', 'remove the copies'),
    'near-duplicate': ('note', 'images look like another one of their split', 'keep one of each group'),
    'duplicate-labels-differ': ('error', 'copies of an image have different boxes', 'correct one, remove the others'),
    'leak-path': ('error', 'images are in several splits', 'list each image in one split'),
    'leak-copy': (
        'error',
        'images are copies of images of another split',
        'remove the copies from the training split',
    ),
    'leak-near': ('warning', 'images look like images of another split', 'keep each scene in one split'),
    # boxes
    'label-broken': ('error', 'labels cannot be read', 'correct the file at the place that is named'),
    'coordinates-not-relative': ('error', 'coordinates are no fractions of the image', 'divide by width and height'),
    'class-out-of-range': ('error', 'boxes have a class index that does not exist', 'correct the index or the names'),
    'unknown-image': ('error', 'boxes belong to no image of the file', 'remove them, or add the images'),
    'id-repeated': ('error', 'ids are not unique', 'number the entries again'),
    'box-not-finite': ('error', 'boxes have coordinates that are not finite', 'draw them again'),
    'box-empty': ('error', 'boxes have a side of zero or below', 'swap or correct their corners, or remove them'),
    'box-outside': ('error', 'boxes are outside their image', 'are the boxes of another image or another size?'),
    'boxes-relative': ('error', 'all boxes are fractions, the format has pixels', 'multiply by width and height'),
    'boxes-xyxy': ('error', 'boxes fit their images if read as x1, y1, x2, y2', 'convert them, or use --fix'),
    'boxes-xywh': ('error', 'boxes fit their images if read as corner and size', 'convert them, or use --fix'),
    'boxes-cxcywh': ('error', 'boxes fit their images if read as centre and size', 'convert them, or use --fix'),
    'axes-swapped': ('error', 'boxes fit their images if x and y are exchanged', 'exchange them, or use --fix'),
    'box-cut': ('warning', 'boxes reach beyond their image', 'they are clipped; check the scale of the boxes'),
    'box-under-pixel': ('warning', 'boxes have under one pixel in their image and are dropped', 'remove them'),
    'box-thin': ('warning', f'boxes are over {THIN_BOX} times as long as wide', 'look at them: a slip of the mouse?'),
    'box-whole-image': ('note', 'boxes cover their whole image', 'is it a label of the image rather than an object?'),
    'box-repeated': ('warning', 'boxes repeat a box of the same class', 'remove the copies'),
    'box-nearly-repeated': ('warning', f'boxes overlap one of their class by IoU > {SAME_IOU}', 'keep one of them'),
    'box-two-classes': ('warning', 'boxes are there again with another class', 'keep one, unless classes may overlap'),
    'box-same-place': ('warning', 'images have the very same box as many others', 'is it a template or a watermark?'),
    'box-tiny': (
        'warning',
        f'boxes have at most {FEWEST_PX} px in the network input',
        'raise img_scale, or use tiles',
    ),
    'box-small': ('note', f'boxes have at most {SMALL_PX} px in the network input', 'raise img_scale, or use tiles'),
    'area-differs': ('note', 'areas are larger than their boxes', 'remove the area field; AP by size uses it'),
    'outline-differs': ('warning', 'boxes differ from their segmentation', 'compute the boxes from the outlines'),
    'shape-without-box': ('note', 'points and lines have no box and are dropped', 'draw rectangles or polygons'),
    'all-ignored': ('note', 'images have ignore regions only', 'check the marks difficult, iscrowd or ignore'),
    'crowded': ('warning', f'images have over {MANY} boxes', 'raise max_per_img of test_cfg, or use tiles'),
    'anchor-recall': ('warning', 'boxes match no anchor', 'mmyolo-ext anchors fits the anchors to the data'),
    # classes and splits
    'no-boxes': ('error', 'splits have no boxes', 'check the folder of the labels, and the class names'),
    'class-other': ('note', 'boxes are of other classes and are dropped', 'add the class to the names'),
    'class-not-in-file': ('error', 'classes of the config are not in the file', 'use the names of the file'),
    'class-order-differs': ('error', 'splits have different classes, or another order', 'give all splits the same'),
    'class-by-case': ('warning', 'class names differ by case or spaces alone', 'merge them into one class'),
    'class-placeholder': ('note', 'class names say nothing', 'name the classes in the data: they are in all outputs'),
    'class-empty': ('warning', 'classes have no box in any split', 'label some, or remove the class'),
    'class-not-in-train': ('error', 'classes have boxes, but none to train on', 'split the images again, stratified'),
    'class-not-in-val': ('warning', 'classes have no box to validate', 'split the images again, stratified'),
    'class-few': ('warning', f'classes have fewer than {FEW_BOXES} boxes to train on', 'label more of them'),
    'class-imbalance': (
        'warning',
        'the most frequent class has over 100 boxes for each of these',
        'label more of them',
    ),
    'class-share-differs': (
        'note',
        'shares of classes differ between splits by over 3 times',
        'split again, stratified',
    ),
    'background': ('warning', 'over half of the images of a split have no box', 'is a part of the labels missing?'),
    'no-val': ('note', 'data sets have no validation images', 'a fifth of the training images is used; make a split'),
    'few-train': ('note', f'training splits have fewer than {FEW_TRAIN} images', 'label more, or start from weights'),
    'few-val': ('note', f'validation splits have fewer than {FEW_VAL} images', 'label more: the AP varies by chance'),
    'val-larger': ('note', 'validation splits are larger than the training split', 'are the splits exchanged?'),
    # with detections
    'label-missing': ('warning', 'confident detections have no box', 'add the boxes if the objects are there'),
    'label-class': ('warning', 'boxes are detected with another class', 'correct the classes, or keep them'),
    'label-misplaced': ('warning', 'boxes are detected beside their place', 'draw the boxes again'),
    'label-undetected': ('note', 'boxes are detected at no confidence', 'remove those without an object'),
}


@dataclass
class Finding:
    """What one check has found.

    Args:
        check: Its name in ``CHECKS``.
        severity: 'error', 'warning' or 'note'.
        count: Number of items.
        message: What was found, in one line.
        cure: What to do.
        items: ``{'image': path, 'boxes': [[x1, y1, x2, y2], ...], 'note': text}`` of each; the path may be ''. Copies
            have ``other``, the path of the image that they resemble.
    """

    check: str
    severity: str
    count: int
    message: str
    cure: str
    items: list[dict]

    def to_dict(self) -> dict:
        """Return all fields, for JSON."""
        return asdict(self)


def check_data(
    splits: dict[str, dict | tuple],
    detections: dict[str, np.ndarray] | None = None,
    anchors_wh: np.ndarray | None = None,
    size_hw: tuple[int, int] = (640, 640),
) -> list[Finding]:
    """Check a data set.

    Args:
        splits: 'train', 'val' and 'test' to the config of a dataset, or to a pair of the content of a COCO file and
            the folder of its images.
        detections: Of a trained model, see :func:`.label_errors.suspect_labels`.
        anchors_wh: (K, 2) px of the model, for the check of anchors.
        size_hw: Height and width of the network input, px.

    Returns:
        The findings, errors first, then by their number of items.

    Raises:
        ValueError: If a split cannot be read at all.
    """
    raw = [read_split(name, source) for name, source in splits.items()]
    return check_splits(raw, inspect_splits(raw), detections, anchors_wh, size_hw)


def inspect_splits(raw: Sequence[RawSplit]) -> dict[str, ImageFacts]:
    """Read all images of splits, each once."""
    return inspect_images(sorted({path for split in raw for path in split.paths}))


def check_splits(
    raw: list[RawSplit],
    facts: dict[str, ImageFacts],
    detections: dict[str, np.ndarray] | None = None,
    anchors_wh: np.ndarray | None = None,
    size_hw: tuple[int, int] = (640, 640),
    refused: str | None = None,
) -> list[Finding]:
    """Check splits and images that have been read; other arguments as of :func:`check_data`.

    Args:
        raw: The splits.
        facts: Of the images.
        refused: Why training refuses the data set.
    """
    items: dict[str, list[dict]] = defaultdict(list)
    if refused:
        items['data-refused'].append(_item('', note=refused))
    for split in raw:
        for check, path, note in split.faults:
            items[check].append(_item(path, note=note))
        for step in (_files, _boxes, _format, _repeats):
            for check, item in step(split, facts):
                items[check].append(item)
        for check, item in _in_network(split, facts, anchors_wh, size_hw):
            items[check].append(item)
    for step in (_classes, _splits, _copies):
        for check, item in step(raw, facts):
            items[check].append(item)
    if detections is not None:
        for check, path, box, note in suspect_labels(raw, detections):
            items[check].append(_item(path, [box], note))
    findings = [_finding(check, own) for check, own in items.items()]
    return sorted(findings, key=lambda one: (SEVERITIES.index(one.severity), -one.count, one.check))


def _finding(check: str, items: list[dict]) -> Finding:
    severity, text, cure = CHECKS[check]
    example = next((item for item in items if item['image'] or item['note']), None)
    shown = '' if example is None else ': ' + ', '.join(filter(None, (example['image'], example['note'])))
    return Finding(check, severity, len(items), f'{text} ({len(items)}){shown}', cure, items)


def _item(image: str, boxes: Sequence = (), note: str = '') -> dict:
    return {'image': image, 'boxes': [[round(float(v), 2) for v in box] for box in boxes], 'note': _printable(note)}


def _printable(text: str) -> str:
    return text.encode(errors='replace').decode()  # names may hold lone surrogates


Found = Iterator[tuple[str, dict]]


def _sizes(split: RawSplit, facts: dict[str, ImageFacts]) -> np.ndarray:
    """Return the sizes (N, 2) px of the files, or as annotated where the file cannot be read."""
    real = np.array([facts[path].size_wh or (np.nan, np.nan) for path in split.paths], np.float64).reshape(-1, 2)
    return np.where(np.isnan(split.sizes_wh), real, split.sizes_wh)


def _files(split: RawSplit, facts: dict[str, ImageFacts]) -> Found:
    """Check the image files of a split."""
    read = [facts[path] for path in split.paths if facts[path].size_wh]
    coloured = sum(not fact.grey for fact in read)
    sharpness = np.median([fact.sharpness for fact in read]) if len(read) >= MIN_IMAGES else 0
    first_of = {path: number for number, path in reversed(list(enumerate(split.paths)))}
    for path in dict.fromkeys(split.paths):
        fact, (width, height) = facts[path], split.sizes_wh[first_of[path]]
        for check, note in fact.faults:
            yield check, _item(path, note=note)
        if fact.size_wh is None:
            continue
        own = fact.size_wh
        if not np.isnan(width + height) and own != (width, height):
            check = 'size-turned' if own == (height, width) and fact.orientation > 4 else 'size-differs'
            note = f'{own[0]} x {own[1]} px, labels have {width:g} x {height:g}'
            yield check, _item(path, note=note)
        if min(own) < SMALL_IMAGE:
            yield 'small-image', _item(path, note=f'{own[0]} x {own[1]} px')
        if max(own) > THIN_IMAGE * min(own):
            yield 'long-image', _item(path, note=f'{own[0]} x {own[1]} px')
        if own[0] * own[1] > HUGE_IMAGE:
            yield 'huge-image', _item(path, note=f'{own[0]} x {own[1]} px')
        if fact.single_colour:
            yield 'single-colour', _item(path)
            continue
        if fact.mean < DARK:
            yield 'dark', _item(path, note=f'mean grey level {fact.mean:.0f}')
        if fact.mean > BRIGHT:
            yield 'bright', _item(path, note=f'mean grey level {fact.mean:.0f}')
        if fact.sharpness < BLUR_SHARE * sharpness:
            yield 'blurred', _item(path, note=f'sharpness {fact.sharpness:.0f}, the median is {sharpness:.0f}')
        if fact.grey and coloured > len(read) / 2:
            yield 'grey-among-colour', _item(path)
    for path, times in Counter(split.paths).items():
        if times > 1:
            yield 'listed-twice', _item(path, note=f'{times} times in {split.name}')
    by_case = defaultdict(set)
    for path in split.paths:
        by_case[path.casefold()].add(path)
    for paths in by_case.values():
        if len(paths) > 1:
            yield 'names-by-case', _item(min(paths), note=', '.join(map(os.path.basename, sorted(paths))))
    for path in split.unlisted:
        yield 'image-without-label', _item(path, note=split.name)


def _boxes(split: RawSplit, facts: dict[str, ImageFacts]) -> Found:
    """Check each box of a split by itself, and the number of boxes of each image."""
    boxes, sizes = split.boxes_xyxy, _sizes(split, facts)[split.image]
    finite = np.isfinite(split.numbers).all(1)
    with np.errstate(invalid='ignore', divide='ignore'):
        wh = boxes[:, 2:] - boxes[:, :2]
        seen = np.minimum(boxes[:, 2:], sizes) - boxes[:, :2].clip(0)
        empty = finite & (wh <= 0).any(1)
        outside = finite & ~empty & (seen <= 0).any(1)
        small = finite & ~empty & ~outside & (seen < 1).any(1)
        fine = finite & ~empty & ~outside & ~small
        over = np.maximum(-boxes[:, :2], boxes[:, 2:] - sizes).max(1, initial=-np.inf)
        thin = fine & (wh.max(1, initial=0) > THIN_BOX * wh.min(1, initial=np.inf))
        whole = fine & (seen.prod(1) >= 0.98 * sizes.prod(1))
        larger = fine & (split.areas > 1.01 * wh.prod(1) + 1)
        apart = np.abs(split.outlines - boxes).max(1, initial=-np.inf)
        apart_by = fine & (apart > np.maximum(0.05 * wh.max(1, initial=0), 2))
    finite_size = ~np.isnan(sizes).any(1) & ~np.isnan(split.numbers).all(1)
    masks = {
        'box-not-finite': ~finite & finite_size,
        'box-empty': empty,
        'box-outside': outside,
        'box-under-pixel': small,
        'box-cut': fine & (over > 1),
        'box-thin': thin,
        'box-whole-image': whole,
        'area-differs': larger,
        'outline-differs': apart_by,
    }
    for check, mask in masks.items():
        for index in np.flatnonzero(mask):
            yield check, _box_item(split, index)
    counts = np.bincount(split.image, minlength=len(split.paths))
    ignored = np.bincount(split.image, split.ignored, len(split.paths))
    for number, path in enumerate(split.paths):
        if counts[number] > MANY:
            yield 'crowded', _item(path, note=f'{counts[number]} boxes')
        if counts[number] and counts[number] == ignored[number]:
            yield 'all-ignored', _item(path, boxes[split.image == number])


def _box_item(split: RawSplit, index: int) -> dict:
    label = split.labels[index]
    name = split.classes[label] if 0 <= label < len(split.classes) else f'class {label}'
    numbers = ' '.join(f'{value:g}' for value in np.round(split.numbers[index], 2))
    note = f'{split.where[index]}: {name}, {split.format} {numbers} px'
    return _item(split.paths[split.image[index]], np.nan_to_num(split.take_xyxy([index]), posinf=0, neginf=0), note)


def other_format(split: RawSplit, sizes: np.ndarray) -> str | None:
    """Return the check that names the format in which the boxes of a split fit their images; None if as stated."""
    known = np.isfinite(split.numbers).all(1) & ~np.isnan(sizes).any(1)
    name, _ = guess_format(split.numbers[known], sizes[known], split.format)
    return {None: None, 'swapped': 'axes-swapped'}.get(name, f'boxes-{name}')


def _format(split: RawSplit, facts: dict[str, ImageFacts]) -> Found:
    sizes = _sizes(split, facts)[split.image]
    check = other_format(split, sizes)
    if check:
        for index in range(len(split.numbers)):
            yield check, _box_item(split, index)


def _repeats(split: RawSplit, facts: dict[str, ImageFacts]) -> Found:
    """Find boxes that mark one object twice, and one box in many images."""
    boxes = split.boxes_xyxy
    usable = np.flatnonzero(np.isfinite(boxes).all(1) & (boxes[:, 2:] > boxes[:, :2]).all(1) & ~split.ignored)
    order = usable[np.argsort(split.image[usable], kind='stable')]
    starts = np.searchsorted(split.image[order], np.arange(len(split.paths) + 1))
    for start, end in zip(starts[:-1], starts[1:], strict=True):
        own = order[start:end]
        overlaps = np.triu(iou(boxes[own], boxes[own]), 1) if len(own) > 1 else np.zeros((0, 0))
        for first, second in zip(*np.nonzero(overlaps > SAME_IOU), strict=True):
            same = split.labels[own[first]] == split.labels[own[second]]
            exact = (boxes[own[first]] == boxes[own[second]]).all()
            check = 'box-repeated' if same and exact else 'box-nearly-repeated' if same else 'box-two-classes'
            yield check, _box_item(split, own[second])
    rows = np.concatenate([boxes[usable].round(1), split.labels[usable, None]], 1)
    images = defaultdict(set)
    for row, index in zip(map(tuple, rows), usable, strict=True):
        images[row].add(index)
    for own in images.values():
        positions = {split.image[index]: index for index in own}
        if len(positions) >= max(MIN_REPEATED, REPEATED_SHARE * len(split.paths)):
            for index in positions.values():
                yield 'box-same-place', _box_item(split, index)


def _in_network(
    split: RawSplit, facts: dict[str, ImageFacts], anchors_wh: np.ndarray | None, size_hw: tuple[int, int]
) -> Found:
    """Check the sizes of the boxes of the training split in the network input, and whether an anchor fits them."""
    if split.name != 'train' or not len(split.numbers):
        return
    sizes = _sizes(split, facts)[split.image]
    boxes = split.boxes_xyxy
    with np.errstate(invalid='ignore', divide='ignore'):
        wh = np.minimum(boxes[:, 2:], sizes) - boxes[:, :2].clip(0)
        wh *= (np.array(size_hw[::-1]) / sizes).min(1, keepdims=True)
    fine = np.isfinite(wh).all(1) & (wh > 0).all(1) & ~split.ignored
    low = wh.min(1)
    for index in np.flatnonzero(fine & (low <= SMALL_PX)):
        item = _box_item(split, index)
        item['note'] += f', {wh[index, 0]:.1f} x {wh[index, 1]:.1f} px of the network input'
        yield 'box-tiny' if low[index] <= FEWEST_PX else 'box-small', item
    fine &= low > FEWEST_PX
    if anchors_wh is not None and fine.any():
        ratios = wh[fine][:, None] / np.asarray(anchors_wh, np.float64).reshape(-1, 2)[None]
        unmatched = np.maximum(ratios, 1 / ratios).max(-1).min(1) >= RATIO
        if unmatched.mean() > 1 - RECALL:
            for index in np.flatnonzero(fine)[unmatched]:
                yield 'anchor-recall', _box_item(split, index)


def _classes(raw: list[RawSplit], facts: dict[str, ImageFacts]) -> Found:
    """Check names of classes and numbers of their boxes."""
    by_name = {split.name: split for split in raw}
    first = raw[0]
    for split in raw[1:]:
        if split.classes != first.classes:
            note = f'{first.name}: {", ".join(first.classes)}; {split.name}: {", ".join(split.classes)}'
            yield 'class-order-differs', _item('', note=note)
    folded = defaultdict(dict)
    for split in raw:
        for name in split.classes:
            folded[' '.join(name.replace('_', ' ').replace('-', ' ').split()).casefold()][name] = None
    for names in folded.values():
        if len(names) > 1:
            yield 'class-by-case', _item('', note=', '.join(map(repr, names)))
    for name in first.classes:
        if name.isdigit() or name.casefold().rstrip('0123456789_ ') in ('class', 'label', 'object', 'unknown', 'none'):
            yield 'class-placeholder', _item('', note=repr(name))
    counts = {
        split.name: Counter(
            split.classes[label]
            for label, ignored in zip(split.labels.tolist(), split.ignored.tolist(), strict=True)
            if not ignored and 0 <= label < len(split.classes)
        )
        for split in raw
    }
    total = sum(counts.values(), Counter())
    train, val = counts.get('train'), counts.get('val')
    for name in dict.fromkeys(name for split in raw for name in split.classes):
        if not total[name]:
            yield 'class-empty', _item('', note=repr(name))
            continue
        if train is not None and not train[name]:
            yield 'class-not-in-train', _item('', note=f'{name!r} has {total[name]} boxes in other splits')
            continue
        if val is not None and not val[name] and sum(val.values()):
            yield 'class-not-in-val', _item('', note=f'{name!r} has {total[name]} boxes in other splits')
        if train and 0 < train[name] < FEW_BOXES:
            yield 'class-few', _item('', note=f'{name!r} has {train[name]}')
        if train and 0 < train[name] * IMBALANCE < max(train.values()):
            yield (
                'class-imbalance',
                _item('', note=f'{name!r} has {train[name]}, {max(train.values())} of the largest'),
            )
        if train and val and train[name] and val[name]:
            shares = [count[name] / sum(count.values()) for count in (train, val)]
            if max(shares) > 3 * min(shares) and min(train[name], val[name]) >= FEW_BOXES:
                yield 'class-share-differs', _item('', note=f'{name!r}: train {shares[0]:.1%}, val {shares[1]:.1%}')
    for name, count in counts.items():
        if not count:
            yield 'no-boxes', _item('', note=f'{name}, {len(by_name[name].paths)} images')


def _splits(raw: list[RawSplit], facts: dict[str, ImageFacts]) -> Found:
    """Check the sizes of the splits, and whether they share files."""
    by_name = {split.name: split for split in raw}
    train, val = by_name.get('train'), by_name.get('val')
    for split in raw:
        without = len(split.paths) - len(np.unique(split.image))
        if len(np.unique(split.image)) and without > BACKGROUND_SHARE * len(split.paths):
            yield 'background', _item('', note=f'{without} of {len(split.paths)} images of {split.name}')
    if train is not None and len(train.paths) < FEW_TRAIN:
        yield 'few-train', _item('', note=f'{len(train.paths)} images')
    if val is None:
        if train is not None:
            yield 'no-val', _item('')
    elif len(val.paths) < FEW_VAL:
        yield 'few-val', _item('', note=f'{len(val.paths)} images')
    if train is not None and val is not None and len(val.paths) > len(train.paths):
        yield 'val-larger', _item('', note=f'train {len(train.paths)}, val {len(val.paths)} images')
    owners = defaultdict(list)
    for split in raw:
        for path in dict.fromkeys(map(os.path.realpath, split.paths)):
            owners[path].append(split.name)
    for path, names in owners.items():
        if len(names) > 1:
            yield 'leak-path', _item(path, note=' and '.join(names))


def _copies(raw: list[RawSplit], facts: dict[str, ImageFacts]) -> Found:
    """Find copies of images within a split and between splits: of equal pixels, or that look alike."""
    owner = {path: split for split in reversed(raw) for path in split.paths}  # of a shared path, the first split
    groups = defaultdict(list)
    seen = set()
    for path in owner:
        real = os.path.realpath(path)
        if facts[path].digest and real not in seen:  # the same path is another check
            seen.add(real)
            groups[facts[path].digest].append(path)
    order = {split.name: number for number, split in enumerate(raw)}
    for paths in groups.values():
        if len(paths) < 2:
            continue
        paths.sort(key=lambda path: (order[owner[path].name], path))
        first, boxes = paths[0], _boxes_of(owner[paths[0]], paths[0])
        for path in paths[1:]:
            within = owner[path] is owner[first]
            note = f'{owner[path].name}, as {first}' + ('' if within else f' of {owner[first].name}')
            yield 'duplicate-image' if within else 'leak-copy', {**_item(path, note=note), 'other': first}
            own = _boxes_of(owner[path], path)
            if own != boxes:
                note = f'{len(own)} boxes, {first} has {len(boxes)}'
                yield 'duplicate-labels-differ', _item(path, [box[1:] for box in own], note)
    singles = [paths[0] for paths in groups.values() if not facts[paths[0]].single_colour]
    singles.sort(key=lambda path: (order[owner[path].name], path))
    reported = set()
    for first, second in near_pairs([facts[path] for path in singles]):
        first, second = singles[first], singles[second]
        if second in reported:
            continue
        reported.add(second)
        within = owner[first] is owner[second]
        note = f'{owner[second].name}, like {first}' + ('' if within else f' of {owner[first].name}')
        yield 'near-duplicate' if within else 'leak-near', {**_item(second, note=note), 'other': first}


def _boxes_of(split: RawSplit, path: str) -> list[tuple]:
    own = split.image == split.paths.index(path)
    rows = np.concatenate([split.labels[own, None], split.take_xyxy(own).round(0)], 1)
    return sorted(map(tuple, rows.tolist()))
