"""YOLO's text labels, one file per image, with a ``data.yaml``, a ``classes.txt`` or Darknet's ``obj.data``."""

import math
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from mmengine.fileio import load

from mmyolo_ext.coco_json import read_once
from mmyolo_ext.datasets.checked_coco import CheckedCocoDataset
from mmyolo_ext.image_io import IMAGE_SUFFIXES, find_file, image_size
from mmyolo_ext.registry import DATASETS

SPLITS = ('train', 'val', 'test')
SPLIT_FOLDERS = {'train': ('train',), 'val': ('val', 'valid'), 'test': ('test',)}
LARGEST = 2.0  # of a coordinate; labels in pixels are above it
LARGEST_YAML = 4_000_000  # bytes


@dataclass
class DataYaml:
    """A ``data.yaml``, with its paths resolved.

    Args:
        root: Folder that all images are in.
        class_names: Names of the classes.
        splits: Folders and lists of images of each split, as paths.
        box_columns: Whether a label has a box first, then keypoints (``kpt_shape``).
        notes: What is unusual about the file.
    """

    root: Path
    class_names: tuple[str, ...]
    splits: dict[str, list[Path]]
    box_columns: bool = False
    notes: list[str] = field(default_factory=list)


@DATASETS.register_module()
class YOLOTxtDataset(CheckedCocoDataset):
    """Images with labels in YOLO's text format, with the checks of :class:`CheckedCocoDataset`.

    A label is a line ``class x y w h`` (centre and size as fractions of the image), or ``class x1 y1 x2 y2 ...``, a
    polygon whose bounding box is used. The labels of ``images/train/1.jpg`` are in ``labels/train/1.txt``, or beside
    the image; an image without labels is background.

    Args:
        data_yaml: File with ``names``, ``train``, ``val``, ``test`` (a folder of images, a list of folders, or a text
            file with a path per line) and optionally ``path``, the folder that these are in; or what
            :func:`read_data_yaml` takes as well.
        split: 'train', 'val' or 'test'.
        **kwargs: As of :class:`CheckedCocoDataset`, without ``ann_file``, ``data_root`` and ``data_prefix``.

    Raises:
        ValueError: On a file that is missing or broken, images outside the data set, or a class index out of range.
    """

    def __init__(self, data_yaml: str, split: str = 'train', metainfo: dict | None = None, **kwargs) -> None:
        data = read_data_yaml(data_yaml)
        if split not in data.splits:
            raise ValueError(f'{data_yaml} has no split {split!r}, it has {", ".join(data.splits) or "none"}')
        self.data, self._split = data, split
        super().__init__(
            ann_file=os.path.abspath(data_yaml),
            data_root=str(data.root),
            data_prefix={'img': ''},
            metainfo=metainfo or {'classes': data.class_names},
            **kwargs,
        )

    @property
    def source(self) -> str:
        """What messages call the annotations: the file and the split."""
        return f'{self.ann_file} ({self._split})'

    def read_annotations(self) -> dict:
        """Return the annotations of the split as the content of a COCO file."""
        return read_yolo(self.data, self._split, self.ann_file)


def read_data_yaml(path: str | Path) -> DataYaml:
    """Read a ``data.yaml`` (Ultralytics, Roboflow), ``classes.txt`` (labelImg, Label Studio) or ``obj.data`` (CVAT).

    A ``classes.txt`` is in the folder of the images and labels, or above: beside ``images`` and ``labels``, ``train``
    and ``val``, or in ``labels``.

    Raises:
        ValueError: If it is missing or broken, or its images are missing or outside ``path`` (by default the folder
            of the file).
    """
    path = Path(path)
    return read_once(('data.yaml', os.path.abspath(path)), [path], lambda: _read_data_yaml(path))


def _read_data_yaml(path: Path) -> DataYaml:
    notes: list[str] = []
    read = {'.txt': _read_class_list, '.data': _read_darknet}.get(path.suffix.lower(), _read_yaml)
    content, folder = read(path)
    names = _class_names(content, path)
    stated = content.get('path')
    if stated is not None and not isinstance(stated, str):
        raise ValueError(f'{path}: path must be a folder, got {stated!r}')
    roots = [folder / stated, Path(stated)] if stated else [folder]
    root = next((place for place in roots if place.is_dir()), None)
    if root is None:
        notes.append(f'its path {stated!r} does not exist: the folder of the file is used')
        root = folder
    splits = {}
    for split in SPLITS:
        value = content.get(split) or (content.get('valid') if split == 'val' else None)
        values = [value] if isinstance(value, str) else value or []
        if not isinstance(values, list) or not all(isinstance(entry, str) and '\0' not in entry for entry in values):
            raise ValueError(f'{path}: {split} must be a path or a list of paths, got {value!r}')
        try:
            places = [_place(entry, root, folder, f'{path}: {split}', notes) for entry in values]
        except FileNotFoundError as error:
            if split != 'test':
                raise ValueError(str(error)) from None
            notes.append(f'{error}; it is left out')
            continue
        if places:
            splits[split] = places
    if not splits:
        raise ValueError(f'{path} names no images: set train and val, each to a folder of images')
    return DataYaml(root, names, splits, bool(content.get('kpt_shape')), notes)


def _read_yaml(path: Path) -> tuple[dict, Path]:
    try:
        if path.stat().st_size > LARGEST_YAML:
            raise ValueError(f'it has {path.stat().st_size:,} bytes, at most {LARGEST_YAML:,} are read')
        content = load(str(path), file_format='yaml')
    except OSError as error:
        raise ValueError(f'cannot read {path}: {error.strerror or error}') from error
    except UnicodeDecodeError as error:
        raise ValueError(f'{path} is not readable as YAML: save it as UTF-8 ({error})') from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(f'{path} is not readable as YAML: {" ".join(str(error).split())}') from error
    if not isinstance(content, dict):
        raise ValueError(f'{path} must hold keys such as names, train and val, got a {type(content).__name__}')
    return content, path.parent


def _read_class_list(path: Path) -> tuple[dict, Path]:
    """Return a list of names, and the folders of images that are found around it, as a ``data.yaml`` has them."""
    folder = path.parent
    while folder.name in ('labels', *sum(SPLIT_FOLDERS.values(), ())):
        folder = folder.absolute().parent
    content: dict = {'names': [line.strip() for line in _lines(path) if line.strip()]}
    for split, words in SPLIT_FOLDERS.items():
        places = [place for word in words for place in (f'images/{word}', f'{word}/images', word)]
        content[split] = next((place for place in places if (folder / place).is_dir()), None)
    if not any(content[split] for split in SPLITS):
        content['train'] = 'images' if (folder / 'images').is_dir() else '.'
    return content, folder


def _read_darknet(path: Path) -> tuple[dict, Path]:
    """Return the lines ``key = value`` of an ``obj.data``, with the names of the file that it names."""
    pairs = (line.split('=', 1) for line in _lines(path) if '=' in line)
    content: dict = {key.strip(): value.strip() for key, value in pairs}
    if not content.get('names'):
        raise ValueError(f'{path} must name the file of the class names: names = obj.names')
    names = _place(content['names'], path.parent, path.parent, f'{path}: names', [])
    content['names'] = [line.strip() for line in _lines(names) if line.strip()]
    content.pop('path', None)
    return content, path.parent


def _class_names(content: dict, path: Path) -> tuple[str, ...]:
    names, count = content.get('names'), content.get('nc')
    if names is None and type(count) is int and 0 < count <= 100_000:
        names = [f'class{number}' for number in range(count)]
    if isinstance(names, dict):
        keys = [int(key) if str(key).isdecimal() else key for key in names]
        if sorted(keys, key=str) != sorted(range(len(keys)), key=str):
            raise ValueError(f'{path}: the keys of names must be 0 to {len(names) - 1}, got {list(names)[:20]}')
        names = [names[key] for _, key in sorted(zip(keys, names, strict=True))]
    if isinstance(names, list) and any(type(name) is bool for name in names):
        raise ValueError(f'{path}: YAML reads a name such as yes, no, on or off as true or false: put it in quotes')
    if not isinstance(names, list) or not names or not all(type(name) in (str, int, float) for name in names):
        raise ValueError(f'{path}: names must be a list of class names or a map from 0, 1, ... to them, got {names!r}')
    names = [str(name).strip() for name in names]
    repeated = [name for name, times in Counter(names).items() if times > 1 or not name]
    if repeated:
        raise ValueError(f'{path}: names must be distinct and not empty, got {repeated[0]!r} several times')
    if type(count) is int and count != len(names):
        raise ValueError(f'{path}: nc is {count}, but names has {len(names)} entries: correct one of them')
    return tuple(names)


def _place(value: str, root: Path, folder: Path, what: str, notes: list[str]) -> Path:
    """Return the path that an entry of ``data.yaml`` means; it must be inside ``root``.

    Roboflow writes ``../train/images`` for ``train/images`` beside the file. Of a path of another machine, the end
    that is there counts.
    """
    plain = value.replace('\\', '/')
    tail = plain
    while tail.startswith('../'):
        tail = tail[3:]
    candidates = [folder / tail, root / tail] if tail != plain else [root / plain, folder / plain]
    found = next((place for place in candidates if os.path.exists(place) and is_inside(place, root)), None)
    if found is not None:
        return found
    if os.path.exists(root / plain) or os.path.exists(folder / plain):
        raise ValueError(
            f'{what} points to {value!r}, outside {root}: set path to a folder that holds the images of all splits'
        )
    found = find_end(plain, root)
    if found is not None:
        notes.append(f'its {what.rpartition(" ")[2]} {value!r} does not exist: {os.path.relpath(found, root)} is used')
        return found
    raise FileNotFoundError(f'{what} points to {value!r}, which is not in {root}')


def find_end(path: str, root: Path) -> Path | None:
    """Return the longest end of a path that exists in a folder, such as ``train/images`` of ``/content/train/images``.

    Paths of another machine need this, and those of CVAT, which begin with ``data/``.
    """
    parts = [part for part in path.split('/') if part]
    ends = (root.joinpath(*parts[start:]) for start in range(1, len(parts)))
    return None if '..' in parts else next((end for end in ends if os.path.exists(end)), None)


def is_inside(path: Path, root: Path) -> bool:
    """Return whether a path is in a folder, as written; symbolic links are not followed."""
    return Path(os.path.abspath(path)).is_relative_to(os.path.abspath(root))


def list_images(place: Path, root: Path) -> list[Path]:
    """Return the images of a folder, with its subfolders, or those that a text file lists, sorted.

    Raises:
        ValueError: If the list names an image that is missing or outside ``root``.
    """
    if place.is_dir():
        return sorted(file for file in visible_files(place) if file.suffix.lower() in IMAGE_SUFFIXES)
    if place.suffix.lower() != '.txt':
        raise ValueError(f'{place} must be a folder of images or a .txt file that lists them')
    images = []
    for number, line in enumerate(read_once(('lines', str(place)), [place], lambda: _lines(place)), 1):
        line = line.strip().replace('\\', '/')
        if line:
            places = [place.parent / line, root / line]
            found = next((file for file in places if os.path.isfile(file)), None) or find_end(line, root)
            if found is None:
                raise ValueError(f'{place}, line {number}: there is no image {line!r} in {place.parent} or {root}')
            if not is_inside(found, root):
                raise ValueError(f'{place}, line {number}: {line!r} is outside {root}: set path in data.yaml')
            images.append(found)
    return sorted(images)


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and its subfolders, also linked ones, without those that begin with a dot."""
    known = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in known else [name for name in folders if not name.startswith('.')]
        if real not in known:
            yield from (Path(place, name) for name in files if not name.startswith('.'))
        known.add(real)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding='utf-8-sig').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'cannot read {path}: {error}') from error


def label_file(image: Path, root: Path) -> Path:
    """Return where the labels of an image are: ``images`` in its path replaced by ``labels``, or beside it."""
    parts = list(image.relative_to(root).parts) if image.is_relative_to(root) else list(image.parts)
    folders = parts[:-1]
    if 'images' in folders:
        folders[len(folders) - 1 - folders[::-1].index('images')] = 'labels'
        file = find_file(root.joinpath(*folders, image.stem), ('.txt',))
        if file:
            return file
    return find_file(image.with_suffix(''), ('.txt',)) or image.with_suffix('.txt')


def read_yolo(data: DataYaml, split: str, path: str) -> dict:
    """Return the images and boxes of a split as the content of a COCO file.

    Raises:
        ValueError: On a label that is broken or has a class index out of range, or a split without labels.
    """
    root = Path(os.path.abspath(data.root))
    files = [Path(os.path.abspath(file)) for place in data.splits[split] for file in list_images(place, data.root)]
    files = list(dict.fromkeys(files))
    if not files:
        raise ValueError(f'{path}: {split} has no images in {", ".join(map(str, data.splits[split]))}')
    states = (place for file in files for place in (file, label_file(file, root)))
    return read_once(('YOLO', path, split), states, lambda: _read_yolo(files, root, data, split, path))


def _read_yolo(files: list[Path], root: Path, data: DataYaml, split: str, path: str) -> dict:
    categories = [{'id': label, 'name': name} for label, name in enumerate(data.class_names)]
    images, annotations, label_files = [], [], 0
    for image_id, file in enumerate(files, 1):
        width, height = image_size(file)
        images.append(
            {'id': image_id, 'file_name': file.relative_to(root).as_posix(), 'width': width, 'height': height}
        )
        labels = label_file(file, root)
        if not labels.is_file():
            continue
        label_files += 1
        for number, line in enumerate(_lines(labels), 1):
            if line.strip():
                where = f'{labels}, line {number}'
                label, (x1, y1, x2, y2) = _read_label(line, len(categories), data.box_columns, where)
                box = [x1 * width, y1 * height, (x2 - x1) * width, (y2 - y1) * height]
                annotations.append(
                    {'id': len(annotations) + 1, 'image_id': image_id, 'category_id': label, 'bbox': box}
                )
    if not label_files:
        expected = label_file(files[0], root)
        raise ValueError(
            f'{path}: none of the {len(files)} images of {split} has a label file, such as {expected}, or the '
            'same with labels for images in its path'
        )
    return {'images': images, 'annotations': annotations, 'categories': categories}


def _read_label(line: str, classes: int, box_columns: bool, where: str) -> tuple[int, tuple[float, ...]]:
    """Return the class index and the box, (x1, y1, x2, y2) as fractions of the image, of a line."""
    try:
        label, *values = map(float, line.split())
    except ValueError:
        raise ValueError(f'{where}: a label must be numbers, class x y w h, got {line.strip()[:100]!r}') from None
    if box_columns:
        values = values[:4]
    elif keypoints := _flagged_keypoints(values):
        raise ValueError(
            f'{where}: a label of {len(values) + 1} numbers that are a class, a box and {keypoints} keypoints with '
            f'visibility, 0 to 2: write kpt_shape: [{keypoints}, 3] into data.yaml, and the boxes are used'
        )
    if len(values) != 4 and (len(values) < 6 or len(values) % 2):
        raise ValueError(
            f'{where}: a label must be class x y w h, or a class and a polygon of x y pairs; it has {len(values) + 1} '
            'numbers' + (': remove the confidence' if len(values) == 5 else '')
        )
    if label != label or label != math.floor(label) or not 0 <= label < classes:
        raise ValueError(f'{where}: class index {label:g} is not in 0 to {classes - 1}: there are {classes} names')
    if not all(abs(value) <= LARGEST for value in values):  # NaN fails as well
        raise ValueError(
            f'{where}: coordinates must be fractions of the image, from 0 to 1, got {line.strip()[:100]!r}'
        )
    if len(values) == 4:
        x, y, w, h = values
        return int(label), (x - w / 2, y - h / 2, x + w / 2, y + h / 2)
    xs, ys = values[::2], values[1::2]
    return int(label), (min(xs), min(ys), max(xs), max(ys))


def _flagged_keypoints(values: list[float]) -> int:
    """Return the number of keypoints (x, y, visibility) after a box (x, y, w, h); 0 if the values are none.

    A polygon would need 0, 1 or 2 at every third place, and its other points in a box of its first two.
    """
    count, rest = divmod(len(values) - 4, 3)
    if count < 1 or rest or not {0, 1, 2}.issuperset(values[6::3]):
        return 0
    x, y, w, h = values[:4]
    seen = [(kx, ky) for kx, ky, flag in zip(values[4::3], values[5::3], values[6::3], strict=True) if flag]
    return count if seen and all(abs(kx - x) <= w / 2 and abs(ky - y) <= h / 2 for kx, ky in seen) else 0
