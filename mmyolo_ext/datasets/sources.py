"""Find out what data a path holds: YOLO (``data.yaml``), COCO, Pascal VOC or labelme, or a zip of one of them."""

import contextlib
import functools
import os
import re
import shutil
import stat
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from mmengine.registry import DefaultScope

from mmyolo_ext.coco_json import keeps_annotations, read_coco
from mmyolo_ext.datasets import labelme, voc, yolo_txt
from mmyolo_ext.image_io import find_file
from mmyolo_ext.registry import DATASETS

VAL_FRACTION, SPLIT_SEED = 0.2, 0
SPLITS = yolo_txt.SPLITS
SPLIT_WORDS = {'train': ('train', 'training', 'trainval'), 'val': ('val', 'valid', 'validation'), 'test': ('test',)}
ACCEPTED = (
    'a data.yaml or classes.txt of YOLO, a COCO JSON file, or a folder or zip with one of these, with Pascal VOC XML '
    'files, or with labelme JSON files'
)
CLASS_LIST = 'classes.txt'
LABELS = 'labels', 'labels/*', '*/labels'  # folders
XML_FOLDERS = ('Annotations', 'annotations', 'labels', 'xml', '')
IMAGE_FOLDERS = ('JPEGImages', 'images', 'Images', '')
ARCHIVES = ('.rar', '.7z', '.tar', '.gz', '.tgz', '.bz2', '.xz')
COCO_KEYS = {'images', 'annotations', 'categories'}
KEYS = (*COCO_KEYS, 'shapes')  # of COCO and of labelme
SMALL_JSON = 16_000_000  # bytes, up to which a file that is opened to tell its format is parsed too
PEEKED = 5  # JSON files of a folder that are opened to tell their format


@dataclass
class DataSource:
    """A data set on disk.

    Args:
        format: 'yolo', 'coco', 'voc' or 'labelme'.
        path: What was given, or the folder that a zip was unpacked into.
        class_names: Names of the classes, in the order of the labels.
        splits: 'train', 'val' and 'test', where they exist, to the config of a dataset without pipeline.
        notes: What was decided for the user.
    """

    format: str
    path: Path
    class_names: tuple[str, ...]
    splits: dict[str, dict]
    notes: list[str] = field(default_factory=list)
    _lines: list[str] = field(default_factory=list, repr=False)

    def summary(self) -> str:
        """Return format, classes, and counts of images and boxes of each split: kept, background, dropped and why.

        Raises:
            ValueError: If the annotations are broken.
        """
        if not self._lines:
            shown = ', '.join(self.class_names[:10]) + (', ...' if len(self.class_names) > 10 else '')
            lines = [f'{self.path}: {self.format}, {len(self.class_names)} classes: {shown}']
            lines += [f'  {split}: {build(config).summarise()}' for split, config in self.splits.items()]
            self._lines = [*lines, *(f'  {note}' for note in self.notes)]
        return '\n'.join(self._lines)

    def read(self, split: str) -> dict:
        """Return the annotations of a split as the content of a COCO file."""
        return build(self.splits[split]).read_content()


def build(config: dict):
    """Return the dataset of a split without reading its annotations."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        return DATASETS.build({**config, 'pipeline': [], 'lazy_init': True, 'test_mode': True})


def find_dataset(path: str | Path) -> DataSource:
    """Find the format, classes and splits of a data set.

    A zip is unpacked beside itself. A data set without validation images is split by a seed.

    Args:
        path: A ``data.yaml``, a COCO JSON file, a folder, or a zip.

    Raises:
        ValueError: If it is not a data set, of two formats, broken, points outside its folder, or has classes that
            differ between its splits.
    """
    path = given = Path(path).expanduser()
    if not path.exists():
        raise ValueError(f'there is no data at {path}: give {ACCEPTED}')
    zipped = path.is_file() and path.suffix.lower() == '.zip'
    if zipped:
        path = unpack(path)
    if path.is_dir():
        source = _find_in_folder(path, given)
    elif path.suffix.lower() in ('.yaml', '.yml', '.data') or path.name.lower() == CLASS_LIST:
        source = _yolo(path)
    elif path.suffix.lower() == '.json':
        source = _coco(_partners(path), path)
    elif path.suffix.lower() in ARCHIVES:
        raise ValueError(f'{path} is an archive that is not read: unpack it, or pack it as a zip')
    else:
        raise ValueError(f'{path} is not a data set: give {ACCEPTED}')
    if zipped:
        for split, config in source.splits.items():
            root = build(config).data_root
            if not yolo_txt.is_inside(Path(root), path):
                raise ValueError(f'{given}: its {split} images are in {root}, outside of the zip: set path to nothing')
    _split_if_needed(source)
    return source


def unpack(path: Path) -> Path:
    """Unpack a zip into a folder of its name beside it, once, and return the folder.

    Raises:
        ValueError: If it is damaged, an entry points outside of the folder or is a link, the disk is too small, or
            the folder exists with other files.
    """
    folder = path.with_suffix('')
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir()]
            for entry in entries:
                name = entry.filename = entry.filename.replace('\\', '/')
                if name.startswith('/') or re.match('[A-Za-z]:', name) or '..' in name.split('/') or '\0' in name:
                    raise ValueError(f'{path}: entry {entry.filename!r} points outside of the zip')
                if stat.S_ISLNK(entry.external_attr >> 16):
                    raise ValueError(f'{path}: entry {entry.filename!r} is a symbolic link: pack the file itself')
            if folder.exists():
                if all(_has_size(folder / entry.filename, entry.file_size) for entry in entries):
                    return folder
                raise ValueError(f'{folder} exists and does not hold what {path.name} has: move it away')
            size, free = sum(entry.file_size for entry in entries), shutil.disk_usage(path.resolve().parent).free
            if size > free:
                raise ValueError(f'{path} unpacks to {size / 1e9:.1f} GB, the disk has {free / 1e9:.1f} GB left')
            partial = path.with_suffix(f'.partial{os.getpid()}')
            try:
                for entry in entries:
                    archive.extract(entry, partial)
                partial.mkdir(exist_ok=True)
                partial.rename(folder)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, EOFError) as error:
        # RuntimeError: encrypted
        raise ValueError(f'cannot unpack {path}: {error}') from error
    except OSError as error:
        raise ValueError(f'cannot unpack {path}: {error.strerror or error}') from error
    return folder


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _find_in_folder(folder: Path, given: Path) -> DataSource:
    """Find the format of a folder, or of the only folder in it."""
    top = folder
    while True:
        found = {
            'yolo': list(_data_yamls(folder)),
            'coco': list(_coco_files(folder)),
            'voc': list(_voc_parts(folder)),
            'labelme': list(_labelme_parts(folder)),
        }
        found = {name: files for name, files in found.items() if files}
        if not found and (classes := _class_list(folder)):
            found = {'yolo': [classes]}
        inner = [entry for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry)]
        if found or len(inner) != 1:
            break
        folder = inner[0]
    if len(found) > 1:
        places = '; '.join(f'{name}: {_shown(files[0], folder)}' for name, files in found.items())
        raise ValueError(f'{given} holds data in {len(found)} formats ({places}): give the file or folder of one')
    if not found:
        places = (place for base in (top, folder) for pattern in LABELS for place in base.glob(pattern))
        if any(place.is_dir() and files_of(place, '.txt') for place in places):
            raise ValueError(
                f'{given} has YOLO labels, but no names: write {CLASS_LIST} into it, with one name per line'
            )
        raise ValueError(f'{given} is not a data set: give {ACCEPTED}')
    if 'yolo' in found:
        if len(found['yolo']) > 1:
            names = ', '.join(file.name for file in found['yolo'])
            raise ValueError(f'{given} has several descriptions of YOLO data, {names}: give one of them')
        return _yolo(found['yolo'][0])
    if 'coco' in found:
        return _coco(found['coco'], folder)
    return _voc(found['voc'], folder) if 'voc' in found else _labelme(found['labelme'], folder)


def _shown(part: Path | tuple, folder: Path) -> str:
    path = part if isinstance(part, Path) else part[0]
    return os.path.relpath(path, folder)


def _is_hidden(path: Path) -> bool:
    return path.name.startswith(('.', '__'))


def files_of(folder: Path, suffix: str) -> list[Path]:
    """Return the files of a folder with a suffix, in small letters or capitals, sorted."""
    return sorted(file for file in folder.iterdir() if file.suffix.lower() == suffix and file.is_file())


def _folders(folder: Path) -> list[Path]:
    """Return a folder and its visible subfolders."""
    return [folder, *sorted(entry for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry))]


def _split_of(path: Path) -> str | None:
    """Return the split that a file or folder name tells, such as val of ``instances_val2017.json``."""
    for word in re.findall('[a-z]+', path.stem.lower()):
        for split, words in SPLIT_WORDS.items():
            if word in words:
                return split
    return None


def _by_split(parts: Sequence, names: Sequence[Path], given: Path, what: str) -> dict:
    """Return the parts by the split that their names tell: 'train' for a single part without one.

    Args:
        parts: What to sort.
        names: File or folder that each is named by; the name of the whole folder tells nothing.
        given: What the user has given.
        what: What the names are of, for the message.

    Raises:
        ValueError: If several parts are of one split, or of none.
    """
    by_split: dict = {}
    named: dict = {}
    for part, name in zip(parts, names, strict=True):
        split = None if name == given and name.is_dir() else _split_of(name)
        if split is None and len(parts) == 1:
            split = 'train'
        if split is None:
            raise ValueError(f'{given}: of which split is {name}? {what} must have train, val or test in its name')
        if split in by_split:
            raise ValueError(f'{given}: {named[split]} and {name} both are of the split {split}: give one of them')
        by_split[split], named[split] = part, name
    return {split: by_split[split] for split in SPLITS if split in by_split}


# YOLO


def _data_yamls(folder: Path) -> Iterator[Path]:
    entries = [file for file in sorted(folder.iterdir()) if file.is_file() and not _is_hidden(file)]
    for file in entries:
        if file.suffix.lower() == '.data' and re.search(rb'^\s*names\s*=', file.read_bytes()[:10_000], re.M):
            yield file
    files = [file for file in entries if file.suffix.lower() in ('.yaml', '.yml')]
    named = [file for file in files if file.stem.lower() in ('data', 'dataset')]
    for file in named or files:
        if file.stat().st_size <= yolo_txt.LARGEST_YAML:
            text = file.read_text(encoding='utf-8', errors='replace')
            if re.search(r'^\ufeff?(names|nc)\s*:', text, re.M) and re.search(
                r'^\ufeff?(train|val|valid|test)\s*:', text, re.M
            ):
                yield file


def _class_list(folder: Path) -> Path | None:
    """Return the list of class names of a folder, or of its subfolders if they are alike."""
    own = [file for place in (folder, folder / 'labels') if (file := find_file(place / 'classes', ('.txt',)))]
    if own:
        return own[0]
    inner = [file for place in _subfolders(folder) if (file := find_file(place / 'classes', ('.txt',)))]
    if len({file.read_bytes() for file in inner}) > 1:
        raise ValueError(
            f'{folder}: {inner[0]} and {inner[1]} differ: the classes must be the same, in the same order'
        )
    return inner[0] if inner else None


def _yolo(path: Path) -> DataSource:
    data = yolo_txt.read_data_yaml(path)
    splits = {
        split: {
            'type': 'mmyolo_ext.YOLOTxtDataset',
            'data_yaml': str(path),
            'split': split,
            'metainfo': {'classes': data.class_names},
        }
        for split in data.splits
    }
    return DataSource('yolo', path, data.class_names, splits, list(data.notes))


# COCO


def _coco_files(folder: Path) -> Iterator[Path]:
    for place in _folders(folder):
        files = files_of(place, '.json')
        found = list(filter(_is_coco, files[:PEEKED]))
        yield from found
        if found or len(files) <= 2 * PEEKED:
            yield from filter(_is_coco, files[PEEKED:])


def _is_coco(path: Path) -> bool:
    return _json_keys(path) >= COCO_KEYS


def _json_keys(path: Path) -> frozenset[str]:
    """Return those of ``KEYS`` that the text of a JSON file has somewhere; parsing a large file takes long."""
    try:
        state = path.stat()
        return _keys_of(path, state.st_mtime_ns, state.st_size)
    except OSError:
        return frozenset()


@functools.lru_cache(maxsize=64)
def _keys_of(path: Path, *_: int) -> frozenset[str]:
    text = path.read_bytes()
    keys = frozenset(key for key in KEYS if f'"{key}"'.encode() in text)
    if keys >= COCO_KEYS and len(text) <= SMALL_JSON and keeps_annotations():
        with contextlib.suppress(ValueError):  # which is reported when the file is read for its boxes
            read_coco(str(path), content=text)
    return keys


def _partners(path: Path) -> list[Path]:
    """Return a file and those of the other splits: beside it, or, as Roboflow has them, in folders beside its own."""

    def without_split(name: str) -> str:
        return re.sub('train(ing|val)?|val(id(ation)?)?|test', '*', name.lower())

    if _split_of(path):
        files = [
            file for file in files_of(path.parent, '.json') if without_split(file.name) == without_split(path.name)
        ]
    elif _split_of(path.parent):
        files = [folder / path.name for folder in _subfolders(path.parent.parent) if _split_of(folder)]
    else:
        files = []
    return sorted({path, *(file for file in files if file.is_file() and _is_coco(file))})


def _coco(files: list[Path], given: Path) -> DataSource:
    """Return the source of the files of all splits."""
    files = [file for file in files if file.name.startswith('instances')] or files  # COCO also has keypoints, captions
    contents = {file: read_coco(str(file)) for file in files}
    with_boxes = [file for file in files if any('bbox' in one for one in _dicts(contents[file]['annotations']))]
    if not with_boxes:
        raise ValueError(f'{given}: no annotation in {", ".join(file.name for file in files)} has a bbox')
    notes = [f'{file.name} has no boxes: it is left out' for file in files if file not in with_boxes]
    named = [file if _split_of(file) else file.parent for file in with_boxes]  # train/_annotations.coco.json
    by_split = _by_split(with_boxes, named, given, 'an annotation file or its folder')
    names = {split: _category_names(contents[file], file) for split, file in by_split.items()}
    first = next(iter(names))
    for split, own in names.items():
        if own != names[first]:
            raise ValueError(
                f'{given}: the classes differ between the splits: {first} has {names[first]}, {split} has {own}: give '
                'both the same categories in the same order'
            )
    classes = _used_names([contents[file] for file in by_split.values()])
    splits = {}
    for split, file in by_split.items():
        images = _image_folder(contents[file], file)
        root = os.path.commonpath([os.path.abspath(file.parent), os.path.abspath(images)])
        shown = os.path.relpath(root) if not given.is_absolute() else root
        splits[split] = {
            'type': 'mmyolo_ext.CheckedCocoDataset',
            'data_root': shown,
            'ann_file': Path(os.path.relpath(file, root)).as_posix(),
            'data_prefix': {'img': '' if images.resolve() == Path(root).resolve() else os.path.relpath(images, root)},
            'metainfo': {'classes': classes},
        }
    return DataSource('coco', given, classes, splits, notes)


def _dicts(entries: list) -> list[dict]:
    return [entry for entry in entries if isinstance(entry, dict)]


def _category_names(content: dict, file: Path) -> tuple:
    names = tuple(category.get('name') for category in _dicts(content['categories']))
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f'{file}: every category needs a name, got {content["categories"][:3]}')
    return names


def _used_names(contents: list[dict]) -> tuple[str, ...]:
    """Return the names of the categories, without what Roboflow adds: an unused supercategory of all others."""
    categories = _dicts(contents[0]['categories'])
    used = {str(one.get('category_id')) for content in contents for one in _dicts(content['annotations'])}
    parents = {str(category.get('supercategory')) for category in categories}
    return tuple(
        category['name']
        for category in categories
        if category['name'] not in parents or str(category.get('id')) in used
    )


def _image_folder(content: dict, file: Path) -> Path:
    """Return the folder that holds the images of an annotation file."""
    names = [image.get('file_name') for image in _dicts(content['images'])]
    names = [name.replace('\\', '/') for name in names if isinstance(name, str)]
    if not names:
        raise ValueError(f'{file} has no images')
    outside = next((name for name in names if name.startswith('/') or '..' in name.split('/')), None)
    if outside:
        raise ValueError(
            f'{file}: file_name must be inside the folder of the images, got {outside!r}: export the data with its '
            'images, or cut the names to what is after that folder'
        )
    split = _split_of(file) or _split_of(file.parent)
    places = [place for base in (file.parent, file.parent.parent) for place in (*_folders(base), base / 'images')]
    places += [place for base in (file.parent, file.parent.parent) for place in _subfolders(base / 'images')]
    fitting = [place for place in places if (place / names[0]).is_file() and (place / names[-1]).is_file()]
    if not fitting:
        raise ValueError(f'{file}: its images, such as {names[0]!r}, are neither in its folder nor in one beside it')
    return min(fitting, key=lambda place: (place != file.parent, _split_of(place) != split))


def _subfolders(folder: Path) -> list[Path]:
    return _folders(folder)[1:] if folder.is_dir() else []


# VOC


def _voc_parts(folder: Path) -> Iterator[tuple[Path, Path, Path]]:
    """Yield (folder of XML files, folder of images, root) for each set of XML files."""
    roots = [folder, *(place for place in _folders(folder)[1:] if place.name not in XML_FOLDERS)]
    roots += [place for top in roots[1:] if top.name == 'VOCdevkit' for place in _subfolders(top)]
    for root in roots:
        for name in XML_FOLDERS:
            inner = _subfolders(root / name) if name else []
            parts = [part for place in (root / name, *inner) if (part := _voc_part(place, root, name))]
            yield from parts
            if parts:
                break


def _voc_part(folder: Path, root: Path, name: str) -> tuple[Path, Path, Path] | None:
    first = next(iter(voc.xml_names(folder)), None) if folder.is_dir() else None
    if first is None:
        return None
    tree = None
    with contextlib.suppress(ValueError):  # of a broken file, which is reported when all are read
        tree = voc.parse_xml(voc.xml_file(folder, first))
    if tree is not None and tree.tag != 'annotation':
        return None
    inner = folder.relative_to(root / name)  # annotations/train has its images in images/train, or in images
    places = [root / images / end for images in IMAGE_FOLDERS for end in dict.fromkeys((inner, ''))]
    for place in places:
        with contextlib.suppress(ValueError):
            voc.find_image(place, first, tree)
            return folder, place, root
    return folder, root, root


def _voc(parts: list[tuple[Path, Path, Path]], folder: Path) -> DataSource:
    lists: dict[str, tuple[tuple[Path, Path, Path], str]] = {}
    if len(parts) == 1:
        sets = parts[0][2] / 'ImageSets' / 'Main'
        for split, names in (('train', ('train', 'trainval')), ('val', ('val', 'valid')), ('test', ('test',))):
            found = next((file for name in names if (file := find_file(sets / name, ('.txt',)))), None)
            if found:
                lists[split] = parts[0], f'ImageSets/Main/{found.name}'
    if not lists:
        named = [annotations if _split_of(annotations) else root for annotations, _, root in parts]
        split_parts = _by_split(parts, named, folder, 'a folder of XML files')
        lists = {split: (part, '') for split, part in split_parts.items()}
    classes_of = {}
    for split, ((annotations, images, root), file) in lists.items():
        names = voc.read_names(root / file, annotations) if file else voc.xml_names(annotations)
        try:
            classes_of[split] = _names(voc.read_voc(annotations, images, names))
        except ValueError:  # of images, which the dataset reports
            classes_of[split] = set(voc.discover_classes(annotations, names))
    classes = _common_classes(classes_of, folder)
    splits = {
        split: {
            'type': 'mmyolo_ext.CheckedVOCDataset',
            'data_root': str(root),
            'ann_file': file,
            'data_prefix': {key: _relative(place, root) for key, place in (('img', images), ('ann', annotations))},
            'metainfo': {'classes': classes},
        }
        for split, ((annotations, images, root), file) in lists.items()
    }
    return DataSource('voc', folder, classes, splits)


def _names(content: dict) -> set[str]:
    return {category['name'] for category in content['categories']} - {''}


def _relative(path: Path, root: Path) -> str:
    return '' if path == root else PurePosixPath(path.relative_to(root)).as_posix()


def _common_classes(classes_of: dict[str, set[str]], given: Path) -> tuple[str, ...]:
    """Return the class names of all splits, sorted; every class must have a box in the training split."""
    if not any(classes_of.values()):
        raise ValueError(f'{given}: no object in it has a class')
    for split, names in classes_of.items():
        unknown = sorted(names - classes_of.get('train', names))
        if unknown:
            raise ValueError(
                f'{given}: the classes differ between the splits: {", ".join(unknown)} of {split} is not in train, '
                f'which has {", ".join(sorted(classes_of["train"]))}: correct the name, or move '
                'images of it to train'
            )
    return tuple(sorted(set().union(*classes_of.values())))


# labelme


def _labelme_parts(folder: Path) -> Iterator[Path]:
    """Yield the folders that hold labelme files."""
    for place in _folders(folder):
        files = [file for file in files_of(place, '.json') if not _is_hidden(file)][:PEEKED]
        if any('shapes' in _json_keys(file) for file in files):
            yield place


def _labelme(parts: list[Path], folder: Path) -> DataSource:
    by_split = _by_split(parts, parts, folder, 'a folder of labelme files')
    classes_of = {}
    for split, part in by_split.items():
        try:
            classes_of[split] = _names(labelme.read_labelme(part, folder))
        except ValueError:  # of images, which the dataset reports
            classes_of[split] = set(labelme.discover_labels(labelme.labelme_files(part)))
    classes = _common_classes(classes_of, folder)
    splits = {
        split: {
            'type': 'mmyolo_ext.LabelmeDataset',
            'data_root': str(folder),
            'ann_file': _relative(part, folder),
            'metainfo': {'classes': classes},
        }
        for split, part in by_split.items()
    }
    return DataSource('labelme', folder, classes, splits)


def _split_if_needed(source: DataSource) -> None:
    """Take the validation images from the training split if there are none of their own."""
    if 'val' in source.splits or 'train' not in source.splits:
        return
    whole = source.splits['train']
    parts = {
        part: {**whole, 'part': part, 'val_fraction': VAL_FRACTION, 'split_seed': SPLIT_SEED}
        for part in ('train', 'val')
    }
    source.splits = {**parts, **{split: config for split, config in source.splits.items() if split == 'test'}}
    source.notes.append(
        f'it has no validation images: {VAL_FRACTION:.0%} of the training images, stratified by class, are taken '
        f'(seed {SPLIT_SEED})'
    )
