"""Read the labels of a data set as they are on disk, faults included, for :mod:`.data_check`.

The datasets stop at the first broken label, or drop it; here each fault becomes a row of a list.
"""

import os
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from mmyolo_ext.coco_json import LARGEST_SIDE, check_file_name, read_coco, split_images, take_images
from mmyolo_ext.datasets import labelme, sources, voc, yolo_txt
from mmyolo_ext.datasets.checked_coco import CheckedCocoDataset
from mmyolo_ext.image_io import IMAGE_SUFFIXES, find_file, image_size

UNKNOWN = -1
LARGEST = 1e9  # px, of coordinates; larger ones are read as this


@dataclass
class RawSplit:
    """The labels of one split. Letters: N images, G boxes.

    Args:
        name: 'train', 'val' or 'test'.
        classes: Names, in the order of the labels.
        format: What four numbers of ``numbers`` are: 'xywh', 'cxcywh' or 'xyxy'.
        paths: (N) absolute paths of the images.
        sizes_wh: (N, 2) px as annotated, NaN where they are not.
        numbers: (G, 4) px as in the file, NaN where they are not numbers.
        image: (G) position of the image of each box.
        labels: (G) index of the class, -1 if it is none.
        ignored: (G) whether the box is an ignore region.
        where: (G) file and line, or id, of each box.
        areas: (G) ``area`` of a COCO file, NaN if it has none.
        outlines: (G, 4) xyxy px around the segmentation of each box, NaN if it has none.
        faults: (check, image or file, note) of what could not be read.
        unlisted: Images in the folders of the split that no label names.
    """

    name: str
    classes: tuple[str, ...] = ()
    format: str = 'xywh'
    paths: list[str] = field(default_factory=list)
    sizes_wh: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)))
    numbers: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    image: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    labels: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    ignored: np.ndarray = field(default_factory=lambda: np.zeros(0, bool))
    where: list[str] = field(default_factory=list)
    areas: np.ndarray = field(default_factory=lambda: np.zeros(0))
    outlines: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)))
    faults: list[tuple[str, str, str]] = field(default_factory=list)
    unlisted: list[str] = field(default_factory=list)

    @property
    def boxes_xyxy(self) -> np.ndarray:
        """The boxes (G, 4) px, not clipped."""
        return self.take_xyxy(slice(None))

    def take_xyxy(self, index: slice | np.ndarray | list[int]) -> np.ndarray:
        """Return some of the boxes, xyxy px; of a large split, ``boxes_xyxy`` takes long in a loop."""
        numbers = self.numbers[index]
        first, second = numbers[:, :2], numbers[:, 2:]
        if self.format == 'xyxy':
            return numbers
        start = first - second / 2 if self.format == 'cxcywh' else first
        return np.concatenate([start, start + second], 1)


def read_split(name: str, source: dict | tuple | CheckedCocoDataset) -> RawSplit:
    """Read a split.

    Args:
        name: 'train', 'val' or 'test'.
        source: The config of a dataset, one of our datasets, or a pair of the content of a COCO file and the folder of
            its images.

    Raises:
        ValueError: If nothing of it can be read.
    """
    if isinstance(source, tuple):
        content, root = source
        return _read_coco(RawSplit(name), content, lambda file: os.path.join(root, file), None)
    if isinstance(source, CheckedCocoDataset):
        source = _config_of(source)
    kind = str(source.get('type', '')).rpartition('.')[2]
    reader = {'YOLOTxtDataset': _yolo, 'CheckedVOCDataset': _voc, 'LabelmeDataset': _labelme}.get(kind)
    if reader is None:
        reader = _coco if kind in ('CheckedCocoDataset', 'CocoDataset') else _any
    split = RawSplit(name)
    if source.get('part') == 'train':
        split.faults.append(('no-val', '', 'a part of the training images is validated'))
    if source.get('part') is None or reader is _coco:
        return reader(split, source)
    return take_part(reader(split, source), source)


def _config_of(dataset: CheckedCocoDataset) -> dict:
    """Return the config by which the labels of a dataset are read again."""
    names = (
        'metainfo',
        'data_prefix',
        'part',
        'val_fraction',
        'split_seed',
        'allow_outside',
        'one_based',
        'difficult',
    )
    config = {name: getattr(dataset, name) for name in names if hasattr(dataset, name)}
    config |= {'type': type(dataset).__name__, 'ann_file': dataset.ann_file}  # data_root is part of the paths
    if isinstance(dataset, yolo_txt.YOLOTxtDataset):
        return {**config, 'data': dataset.data, 'split': dataset._split}
    if isinstance(dataset, labelme.LabelmeDataset):
        return {
            **config,
            'data_root': dataset.data_root,
            'ann_file': os.path.relpath(dataset.source, dataset.data_root),
        }
    return config


def take_part(split: RawSplit, config: dict) -> RawSplit:
    """Return the part of a split that its config names, as ``CheckedCocoDataset`` takes it."""
    content = {
        'images': [{'id': number} for number in range(len(split.paths))],
        'annotations': [
            {'image_id': image, 'category_id': label}
            for image, label in zip(split.image.tolist(), split.labels.tolist(), strict=True)
        ],
    }
    indices = split_images(content, *_shares(config))[config['part'] == 'val']
    places = np.full(len(split.paths), UNKNOWN)
    places[indices] = np.arange(len(indices))
    kept = np.flatnonzero(places[split.image] >= 0)
    paths = [split.paths[index] for index in indices]
    return RawSplit(
        split.name,
        split.classes,
        split.format,
        paths,
        split.sizes_wh[indices],
        split.numbers[kept],
        places[split.image[kept]],
        split.labels[kept],
        split.ignored[kept],
        [split.where[index] for index in kept],
        split.areas[kept],
        split.outlines[kept],
        split.faults if config['part'] == 'train' else [],  # each once
        split.unlisted if config['part'] == 'train' else [],
    )


def _shares(config: dict) -> tuple[tuple[float, float], int]:
    fraction = config.get('val_fraction', sources.VAL_FRACTION)
    return (1 - fraction, fraction), config.get('split_seed', sources.SPLIT_SEED)


def find_splits(path: str | Path) -> tuple[dict[str, dict], str | None, list[str]]:
    """Return the splits of a data set, also of one that :func:`find_dataset` refuses.

    Returns:
        Dataset configs by split, why the data set is refused, or None, and the notes of the reader.

    Raises:
        ValueError: If the path holds no data set at all.
    """
    try:
        source = sources.find_dataset(path)
        return source.splits, None, source.notes
    except ValueError as error:
        splits = _splits_of_refused(Path(path).expanduser())
        if not splits:
            raise
        return splits, str(error), []


def _splits_of_refused(path: Path) -> dict[str, dict]:
    """Return what can be read of a COCO, VOC or labelme data set that has faults."""
    if path.is_file() and path.suffix.lower() != '.json' or not path.exists():
        return {}
    found: dict[str, dict] = {}
    files = sources._partners(path) if path.is_file() else list(sources._coco_files(path))
    files = [file for file in files if not file.name.startswith(('captions', 'person_keypoints'))]
    for file in files:
        try:
            content = read_coco(str(file))
            images = sources._image_folder(content, file)
            classes = tuple(str(one.get('name')) for one in content['categories'] if isinstance(one, dict))
        except ValueError:
            continue
        split = sources._split_of(file) or sources._split_of(file.parent) or 'train'
        found.setdefault(
            split,
            {
                'type': 'mmyolo_ext.CheckedCocoDataset',
                'data_root': str(file.parent),
                'ann_file': file.name,
                'data_prefix': {'img': os.path.abspath(images)},
                'metainfo': {'classes': classes},
            },
        )
    for annotations, images, root in [] if found or path.is_file() else sources._voc_parts(path):
        sets = root / 'ImageSets' / 'Main'
        lists = {
            split: file
            for split, names in sources.SPLIT_WORDS.items()
            for name in names[::-1]
            if (file := find_file(sets / name, ('.txt',)))
        }
        whole = sources._split_of(annotations) or sources._split_of(root) or 'train'
        for split, file in (lists or {whole: None}).items():
            found[split] = {
                'type': 'mmyolo_ext.CheckedVOCDataset',
                'data_root': str(root),
                'ann_file': '' if file is None else str(file.relative_to(root)),
                'data_prefix': {'img': os.path.relpath(images, root), 'ann': os.path.relpath(annotations, root)},
                'metainfo': {'classes': _xml_classes(annotations)},
            }
    for folder in [] if found or path.is_file() else sources._labelme_parts(path):
        found[sources._split_of(folder) or 'train'] = {
            'type': 'mmyolo_ext.LabelmeDataset',
            'data_root': str(path),
            'ann_file': os.path.relpath(folder, path),
            'metainfo': {'classes': _labelme_classes(folder)},
        }
    return {split: found[split] for split in sources.SPLITS if split in found}


def _xml_classes(folder: Path) -> tuple[str, ...]:
    names: set[str] = set()
    for name in voc.xml_names(folder):
        try:
            names |= set(voc.discover_classes(folder, [name]))
        except ValueError:  # reported when the split is read
            continue
    return tuple(sorted(names))


def _labelme_classes(folder: Path) -> tuple[str, ...]:
    names: set[str] = set()
    for file in labelme.labelme_files(folder):
        try:
            names |= set(labelme.discover_labels([file]))
        except ValueError:
            continue
    return tuple(sorted(names))


def _fill(split: RawSplit, sizes: list, rows: list[tuple]) -> RawSplit:
    """Set the arrays from sizes and rows (image, label, four numbers, ignored, where)."""
    split.sizes_wh = np.array(sizes, np.float64).reshape(-1, 2)
    split.image = np.array([row[0] for row in rows], np.int64)
    split.labels = np.array([row[1] for row in rows], np.int64)
    split.numbers = np.array([row[2] for row in rows], np.float64).reshape(-1, 4)
    split.ignored = np.array([row[3] for row in rows], bool)
    split.where = [row[4] for row in rows]
    split.areas = np.full(len(rows), np.nan)
    split.outlines = np.full((len(rows), 4), np.nan)
    return split


# YOLO


def _yolo(split: RawSplit, config: dict) -> RawSplit:
    data = config.get('data') or yolo_txt.read_data_yaml(config['data_yaml'])
    root = Path(os.path.abspath(data.root))
    split.classes, split.format = data.class_names, 'cxcywh'
    files: list[Path] = []
    for place in data.splits[config.get('split', 'train')]:
        try:
            files += [Path(os.path.abspath(file)) for file in yolo_txt.list_images(place, data.root)]
        except ValueError as error:
            split.faults.append(('image-missing', str(place), str(error)))
    sizes, rows, label_files = [], [], set()
    for file in files:
        try:
            size = image_size(file)
        except ValueError:  # the check of the images says why
            size = (np.nan, np.nan)
        labels = yolo_txt.label_file(file, root)
        label_files.add(labels)
        for number, line in enumerate(_lines(split, labels, file), 1):
            if line.strip():
                row = _yolo_row(split, line, str(file), f'{labels}, line {number}', data.box_columns)
                if row is not None:
                    label, numbers = row
                    rows.append((len(sizes), label, numbers * np.array([*size, *size]), False, f'{labels}:{number}'))
        sizes.append(size)
    split.paths = list(map(str, files))
    folders = {labels.parent for labels in label_files if labels.parent.is_dir()}
    for labels in sorted({file for folder in folders for file in sources.files_of(folder, '.txt')} - label_files):
        if labels.name.lower() not in ('classes.txt', 'labels.txt', 'readme.txt') and not _in_other_split(
            labels, data
        ):
            split.faults.append(('orphan-label', str(labels), 'no image of this name'))
    return _fill(split, sizes, rows)


def _in_other_split(labels: Path, data: yolo_txt.DataYaml) -> bool:
    """Return whether an image beside the labels, or in ``images`` for ``labels``, has their name."""
    parts = list(labels.parts)
    places = [labels]
    if 'labels' in parts:
        parts[len(parts) - 1 - parts[::-1].index('labels')] = 'images'
        places.append(Path(*parts))
    lists = [place for places_of in data.splits.values() for place in places_of]
    return labels in lists or any(find_file(place.with_suffix(''), IMAGE_SUFFIXES) for place in places)


def _lines(split: RawSplit, labels: Path, image: Path) -> list[str]:
    try:
        return yolo_txt._lines(labels) if labels.is_file() else []
    except ValueError as error:
        split.faults.append(('label-broken', str(image), str(error)))
        return []


def _yolo_row(split: RawSplit, line: str, image: str, where: str, box_columns: bool) -> tuple | None:
    try:
        label, (x1, y1, x2, y2) = yolo_txt._read_label(line, 1_000_000, box_columns, where)
    except ValueError as error:
        text = str(error)
        check = 'label-broken'
        if 'fractions' in text:
            check = 'coordinates-not-relative'
        elif 'class index' in text:
            check = 'class-out-of-range'
        split.faults.append((check, image, text))
        return None
    if label >= len(split.classes):
        text = f'{where}: class index {label}, there are {len(split.classes)} names'
        split.faults.append(('class-out-of-range', image, text))
        return None
    return label, np.array([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1])


# VOC


def _voc(split: RawSplit, config: dict) -> RawSplit:
    root, prefix = Path(config.get('data_root') or ''), config['data_prefix']
    folder, images = root / prefix['ann'], root / prefix['img']
    split.classes, split.format = tuple(config['metainfo']['classes']), 'xyxy'
    names = voc.read_names(root / config['ann_file'], folder) if config.get('ann_file') else voc.xml_names(folder)
    sizes, rows = [], []
    for name in names:
        path = voc.xml_file(folder, name)
        try:
            tree = voc.parse_xml(path)
            image = voc.find_image(images, name, tree)
            size = voc.annotated_size(tree, image)
        except ValueError as error:
            missing = 'image is missing' in str(error)
            split.faults.append(('image-missing' if missing else 'label-broken', str(path), str(error)))
            continue
        for number, item in enumerate(tree.iter('object'), 1):
            where, label = f'{path}, object {number}', voc.object_name(item)
            if label not in split.classes:
                check = 'class-other' if label else 'label-broken'
                split.faults.append((check, str(image), f'{where}: its class is {label!r}'))
                continue
            try:
                box = voc.read_corners(item, path, config.get('one_based', False))
            except ValueError as error:
                finite = 'not finite' in str(error)
                split.faults.append(('box-not-finite' if finite else 'label-broken', str(image), f'{where}: {error}'))
                continue
            ignored = item.findtext('difficult', '0').strip() == '1' and config.get('difficult') != 'keep'
            rows.append((len(sizes), split.classes.index(label), box, ignored, where))
        sizes.append(size)
        split.paths.append(os.path.abspath(image))
    labelled = {os.path.join(folder, name) for name in voc.xml_names(folder)}
    _add_unlisted(split, labelled, images, folder)
    return _fill(split, sizes, rows)


def _add_unlisted(split: RawSplit, labelled: set[str], images: Path, labels: Path) -> None:
    """Note the images of a folder that have no annotation file."""
    known = set(split.paths)
    for file in sorted(images.iterdir()) if images.is_dir() else ():
        is_image = file.suffix.lower() in IMAGE_SUFFIXES and not file.name.startswith('.')
        if is_image and str(labels / file.stem) not in labelled and os.path.abspath(file) not in known:
            split.unlisted.append(os.path.abspath(file))


# labelme


def _labelme(split: RawSplit, config: dict) -> RawSplit:
    root = Path(config['data_root'])
    split.classes, split.format = tuple(config['metainfo']['classes']), 'xyxy'
    sizes, rows = [], []
    for file in labelme.labelme_files(root / config.get('ann_file', '')):
        try:
            content = labelme.load_labelme(file)
        except ValueError as error:
            split.faults.append(('label-broken', str(file), str(error)))
            continue
        try:
            image = labelme._find_image(content, file, root)
        except ValueError as error:
            outside = 'outside' in str(error)
            split.faults.append(('path-outside' if outside else 'image-missing', str(file), str(error)))
            continue
        for number, shape in enumerate(content['shapes'], 1):
            where = f'{file}, shape {number}'
            if labelme._kind(shape) not in labelme.KINDS:
                split.faults.append(('shape-without-box', str(image), f'{where} is a {labelme._kind(shape)}'))
                continue
            if shape['label'] not in split.classes:
                split.faults.append(('class-other', str(image), f'{where}: its class is {shape["label"]!r}'))
                continue
            try:
                rows.append(
                    (
                        len(sizes),
                        split.classes.index(shape['label']),
                        labelme._box(shape, file),
                        False,
                        where,
                    )
                )
            except ValueError as error:
                split.faults.append(('label-broken', str(image), f'{where}: {error}'))
        sides = content.get('imageWidth'), content.get('imageHeight')
        sizes.append(sides if all(type(side) is int and side > 0 for side in sides) else (np.nan, np.nan))
        split.paths.append(str(image))
    return _fill(split, sizes, rows)


# COCO


def _coco(split: RawSplit, config: dict) -> RawSplit:
    root, prefix = config.get('data_root') or '', (config.get('data_prefix') or {}).get('img', '')
    path = os.path.join(root, config['ann_file'])
    content = read_coco(path)
    if config.get('part') is not None:
        parts = split_images(_valid_entries(content), *_shares(config))
        content = take_images(_valid_entries(content), parts[config['part'] == 'val'])
    folder = os.path.join(root, prefix)
    allow = config.get('allow_outside', False)

    def locate(name: str) -> str:
        return check_file_name(name, folder, root or None, allow, path)

    classes = (config.get('metainfo') or {}).get('classes')
    split = _read_coco(split, content, locate, (classes,) if isinstance(classes, str) else classes)
    used = {os.path.dirname(file) for file in split.paths}
    listed = set(split.paths)
    for place in sorted(used):
        files = sorted(os.listdir(place)) if os.path.isdir(place) else ()
        whole = [os.path.join(place, file) for file in files if file.lower().endswith(IMAGE_SUFFIXES)]
        split.unlisted += [file for file in whole if file not in listed]
    return split


def _valid_entries(content: dict) -> dict:
    images = [one for one in content['images'] if isinstance(one, dict) and type(one.get('id')) is int]
    known = {one['id'] for one in images}
    annotations = [
        one
        for one in content['annotations']
        if isinstance(one, dict) and type(one.get('category_id')) is int and one.get('image_id') in known
    ]
    return {**content, 'images': images, 'annotations': annotations}


def _read_coco(split: RawSplit, content: dict, locate, classes: tuple[str, ...] | None) -> RawSplit:
    """Read the content of a COCO file; ``locate`` gives the path of a file name, ``classes`` the names that count."""
    categories = [one for one in content['categories'] if isinstance(one, dict) and isinstance(one.get('name'), str)]
    names = [one['name'] for one in categories]
    split.classes = tuple(classes or names)
    missing = [name for name in split.classes if name not in names]
    split.faults += [('class-not-in-file', '', f'{name!r}; the file has {", ".join(names)}') for name in missing]
    labels = {
        repr(one.get('id')): split.classes.index(one['name']) for one in categories if one['name'] in split.classes
    }
    others = {repr(one.get('id')): one['name'] for one in categories if one['name'] not in split.classes}
    for kind in ('images', 'annotations', 'categories'):
        ids = [one.get('id') for one in content[kind] if isinstance(one, dict)]
        for repeated, times in Counter(map(repr, ids)).items():
            if times > 1:
                split.faults.append(('id-repeated', '', f'id {repeated} of {kind} is there {times} times'))
    positions, sizes = {}, []
    for image in content['images']:
        name = image.get('file_name') if isinstance(image, dict) else None
        if not _is_file_name(name) or 'id' not in image:
            split.faults.append(('label-broken', '', f'an image without id or file_name: {str(image)[:80]}'))
            continue
        try:
            path = os.path.abspath(locate(name))
        except ValueError as error:
            split.faults.append(('path-outside', name, str(error)))
            continue
        positions[repr(image['id'])] = len(sizes)
        sides = [image.get(side) for side in ('width', 'height')]
        valid = all(type(side) in (int, float) and 0 < side <= LARGEST_SIDE for side in sides)
        sizes.append(sides if valid else (np.nan, np.nan))
        if not valid:
            split.faults.append(('label-broken', path, f'width and height are {str(sides)[:80]}'))
        split.paths.append(path)
    rows, areas, outlines = [], [], []
    known = {repr(image.get('id')) for image in content['images'] if isinstance(image, dict)}
    for annotation in content['annotations']:
        if not isinstance(annotation, dict):
            split.faults.append(('label-broken', '', f'an annotation that is no object: {str(annotation)[:80]}'))
            continue
        where, image = f'annotation {annotation.get("id")}', positions.get(repr(annotation.get('image_id')))
        if image is None:
            if repr(annotation.get('image_id')) not in known:
                split.faults.append(('unknown-image', '', f'{where}: image_id {annotation.get("image_id")}'))
            continue
        path, category = split.paths[image], repr(annotation.get('category_id'))
        if category not in labels:
            check = 'class-other' if category in others else 'class-out-of-range'
            split.faults.append((check, path, f'{where}: {others.get(category, f"category_id {category}")}'))
            continue
        box = annotation.get('bbox')
        if not isinstance(box, list) or len(box) != 4 or not all(type(value) in (int, float) for value in box):
            split.faults.append(('label-broken', path, f'{where}: bbox {str(box)[:80]}'))
            continue
        ignored = bool(annotation.get('iscrowd') or annotation.get('ignore'))
        rows.append(
            (image, labels[category], [min(max(v, -LARGEST), LARGEST) if v == v else v for v in box], ignored, where)
        )
        area = annotation.get('area')
        areas.append(min(area, LARGEST**2) if type(area) in (int, float) else np.nan)
        outlines.append(_outline(annotation.get('segmentation')))
    _fill(split, sizes, rows)
    split.areas, split.outlines = np.array(areas, np.float64), np.array(outlines, np.float64).reshape(-1, 4)
    return split


def _is_file_name(name: object) -> bool:
    return isinstance(name, str) and '\0' not in name and name == name.encode(errors='ignore').decode() and name != ''


def _outline(segmentation: object) -> tuple[float, ...]:
    """Return the box around the polygons of an annotation; NaN without polygons."""
    try:
        points = np.concatenate([np.array(part, np.float64).reshape(-1, 2) for part in segmentation])
        return (*points.min(0), *points.max(0))
    except (TypeError, ValueError, OverflowError):
        return (np.nan,) * 4


def _any(split: RawSplit, config: dict) -> RawSplit:
    """Read a dataset of any other type by its own reader."""
    try:
        dataset = sources.build(config)
        dataset.full_init()
        infos = [dataset.get_data_info(index) for index in range(len(dataset))]
    except Exception as error:  # of any dataset
        name = re.sub(r'^.*\.', '', str(config.get('type')))
        raise ValueError(f'the {split.name} dataset {name} cannot be read: {" ".join(str(error).split())}') from error
    split.classes, split.format = tuple(dataset.metainfo.get('classes') or ()), 'xyxy'
    sizes, rows = [], []
    for info in infos:
        for number, one in enumerate(info.get('instances') or (), 1):
            if len(one.get('bbox', ())) == 4:
                flag = bool(one.get('ignore_flag'))
                rows.append((len(sizes), one.get('bbox_label', 0), one['bbox'], flag, f'box {number}'))
        sizes.append((info.get('width') or np.nan, info.get('height') or np.nan))
        split.paths.append(os.path.abspath(str(info.get('img_path', ''))))
    return _fill(split, sizes, rows)
