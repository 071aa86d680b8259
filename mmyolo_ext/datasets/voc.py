"""Pascal VOC's XML annotations, one file per image.

Coordinates: a COCO box is x, y, width, height on the continuous plane, origin at the upper left corner of the image.
By default VOC numbers are read as such corners: x = xmin, w = xmax - xmin, as labelImg and most tools write them.
Pascal's own files count pixels from 1 and include the last one; ``one_based`` reads those: x = xmin - 1,
w = xmax - xmin + 1.
"""

import math
import os
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath, PureWindowsPath
from xml.parsers import expat

from mmyolo_ext.coco_json import read_once, take_classes
from mmyolo_ext.datasets.checked_coco import CheckedCocoDataset
from mmyolo_ext.image_io import IMAGE_SUFFIXES, find_file, image_size
from mmyolo_ext.registry import DATASETS

MAX_XML = 16_000_000  # bytes; real files have some thousand
MAX_SIDE = 1_000_000  # px
DIFFICULT = ('ignore', 'keep', 'drop')


@DATASETS.register_module()
class CheckedVOCDataset(CheckedCocoDataset):
    """Images with Pascal VOC's XML files, with the checks of :class:`CheckedCocoDataset`.

    Args:
        data_root: Folder of the data set.
        ann_file: List of the images of the split, such as ``ImageSets/Main/train.txt``; '' for all XML files.
        data_prefix: Folders of the images (``img``) and of the XML files (``ann``), which may be the same.
        metainfo: ``classes``; objects of other classes are dropped.
        one_based: Whether pixels count from 1 and the last one belongs to the box, as in Pascal's own files.
        difficult: 'ignore' makes difficult objects ignore regions, 'keep' uses them as any other, 'drop' removes them.
        **kwargs: As of :class:`CheckedCocoDataset`.

    Raises:
        ValueError: On a file that is missing or broken.
    """

    def __init__(
        self,
        ann_file: str = '',
        data_prefix: dict | None = None,
        one_based: bool = False,
        difficult: str = 'ignore',
        **kwargs,
    ) -> None:
        if difficult not in DIFFICULT:
            raise ValueError(f'difficult must be one of {DIFFICULT}, got {difficult!r}')
        self.one_based, self.difficult = one_based, difficult
        prefix = {'img': 'JPEGImages', 'ann': 'Annotations'} if data_prefix is None else data_prefix
        super().__init__(ann_file=ann_file, data_prefix=prefix, **kwargs)

    @property
    def source(self) -> str:
        """What messages call the annotations: the list of images, or the folder of the XML files."""
        return self.ann_file or self.data_prefix['ann']

    def read_annotations(self) -> dict:
        """Return the annotations of the split as the content of a COCO file."""
        folder = Path(self.data_prefix['ann'])
        names = read_names(Path(self.ann_file), folder) if self.ann_file else xml_names(folder)
        content = read_voc(folder, Path(self.data_prefix['img']), names, self.one_based)
        content = take_classes(content, self.metainfo['classes'])
        annotations, dropped = content['annotations'], content['dropped']
        if self.difficult == 'drop':
            annotations = [one for one in content['annotations'] if not one['difficult']]
            if len(annotations) < len(content['annotations']):
                dropped = {**dropped, 'difficult': len(content['annotations']) - len(annotations)}
        elif self.difficult == 'ignore':
            annotations = [{**one, 'iscrowd': int(one['difficult'])} for one in annotations]
        return {**content, 'annotations': annotations, 'dropped': dropped}


def read_voc(folder: Path, images: Path, names: Sequence[str], one_based: bool = False) -> dict:
    """Return images and boxes, ``difficult`` or not, as the content of a COCO file, with all classes there are.

    A box that cannot be read has an ``error``.

    Args:
        folder: Of the XML files.
        images: Folder of the images.
        names: XML files, without suffix.
        one_based: As of :class:`CheckedVOCDataset`.
    """
    files = (xml_file(folder, name) for name in names)
    key = 'VOC', os.path.abspath(folder), os.path.abspath(images), one_based
    return read_once(key, files, lambda: _read_voc(folder, images, names, one_based))


def _read_voc(folder: Path, images: Path, names: Sequence[str], one_based: bool) -> dict:
    labels: dict[str, int] = {}
    coco: dict = {'images': [], 'annotations': []}
    for image_id, name in enumerate(names, 1):
        path = xml_file(folder, name)
        root = parse_xml(path)
        image = find_image(images, name, root)
        width, height = annotated_size(root, image)
        file_name = image.relative_to(images).as_posix()
        coco['images'].append({'id': image_id, 'file_name': file_name, 'width': width, 'height': height})
        for item in root.iter('object'):
            annotation = {
                'id': len(coco['annotations']) + 1,
                'image_id': image_id,
                'category_id': labels.setdefault(object_name(item), len(labels)),
                'difficult': item.findtext('difficult', '0').strip() == '1',
            }
            try:
                x1, y1, x2, y2 = read_corners(item, path, one_based)
                annotation['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            except ValueError as error:
                annotation['error'] = str(error)
            coco['annotations'].append(annotation)
    return {**coco, 'categories': [{'id': label, 'name': name} for name, label in labels.items()]}


def object_name(item: ElementTree.Element) -> str:
    """Return the class name of an object."""
    return (item.findtext('name') or '').strip()


def xml_names(folder: Path) -> list[str]:
    """Return the names of all XML files of a folder, without suffix, sorted."""
    return sorted(
        path.stem for path in folder.iterdir() if path.suffix.lower() == '.xml' and not path.name.startswith('.')
    )


def xml_file(folder: Path, name: str) -> Path:
    """Return the XML file of a name, which may not exist."""
    return find_file(folder / name, ('.xml',)) or folder / f'{name}.xml'


def read_names(path: Path, folder: Path) -> list[str]:
    """Return the image names of a file of ``ImageSets/Main``.

    A line is a name, also with spaces, or the path of an image. A number may follow, as in Pascal's lists of a class.

    Args:
        path: The list.
        folder: Of the XML files.

    Raises:
        ValueError: If it cannot be read, or a name points outside of the annotation folder.
    """
    try:
        text = read_once(('list', str(path)), [path], lambda: path.read_text(encoding='utf-8-sig'))
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f'cannot read the list of images {path}: {error}') from error
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for name in lines:
        if name.startswith(('/', '\\')) or '\0' in name or '..' in re.split(r'[/\\]', name):
            raise ValueError(f'{path} names {name!r}, which is outside of the annotation folder')
    return [
        next(
            (name for name in (line, PurePosixPath(line).stem) if find_file(folder / name, ('.xml',))),
            line.split()[0],
        )
        for line in lines
    ]


def parse_xml(path: Path) -> ElementTree.Element:
    """Read the root of one annotation file.

    Raises:
        ValueError: If it is missing, no XML, too large, or has a document type or entities, by which a small file can
            fill the memory or name other files.
    """
    try:
        if path.stat().st_size > MAX_XML:
            raise ValueError(f'it has {path.stat().st_size:,} bytes, at most {MAX_XML:,} are read')
        builder, parser = ElementTree.TreeBuilder(), expat.ParserCreate()
        parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = _refuse_declaration
        parser.StartElementHandler = builder.start
        parser.EndElementHandler = builder.end
        parser.CharacterDataHandler = builder.data
        parser.Parse(path.read_bytes(), True)
        return builder.close()
    except OSError as error:  # also of names that are too long
        missing = isinstance(error, FileNotFoundError)
        raise ValueError(f'annotation file {"is missing" if missing else "cannot be read"}: {path}') from None
    except (expat.ExpatError, ValueError, LookupError) as error:  # LookupError: of an encoding
        raise ValueError(f'annotation file is broken: {path}: {error}') from error


def _refuse_declaration(name: str, *_: object) -> None:
    raise ValueError(f'it declares the document type or entity {name!r}, which annotations do not need')


def find_image(folder: Path, name: str, root: ElementTree.Element | None = None) -> Path:
    """Return the image of an annotation, with any of the suffixes, or else the one that its ``filename`` names."""
    found = find_file(folder / name, IMAGE_SUFFIXES)
    if found:
        return found
    named = PureWindowsPath((root.findtext('filename') or '') if root is not None else '').name.strip()
    if named.lower().endswith(IMAGE_SUFFIXES) and os.path.isfile(folder / named):
        return folder / named
    raise ValueError(
        f'image is missing: {folder / name}{IMAGE_SUFFIXES[0]} (or {", ".join(IMAGE_SUFFIXES[1:])}, or in capitals)'
    )


def annotated_size(root: ElementTree.Element, image: Path) -> tuple[int, int]:
    """Return width and height from the XML, or from the image where the XML has none or zeros."""
    try:
        width, height = (float(root.findtext(f'size/{key}') or 0) for key in ('width', 'height'))
    except ValueError as error:
        raise ValueError(f'the annotation of {image.name} has a size that is not numbers: {error}') from error
    if 1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE:
        return int(width), int(height)
    if width or height:
        raise ValueError(f'the annotation of {image.name} has a size of {width:g} x {height:g} px')
    try:
        return image_size(image)
    except ValueError as error:
        raise ValueError(f'image cannot be read, and its annotation gives no size: {image}') from error


def read_corners(item: ElementTree.Element, path: Path, one_based: bool) -> tuple[float, float, float, float]:
    """Return the box of an object as continuous corners x1, y1, x2, y2."""
    try:
        box = item.find('bndbox')
        x1, y1, x2, y2 = (float(box.findtext(key)) for key in ('xmin', 'ymin', 'xmax', 'ymax'))
    except (AttributeError, TypeError, ValueError) as error:
        raise ValueError(f'an object without a readable bndbox in {path}') from error
    if not all(map(math.isfinite, (x1, y1, x2, y2))):
        raise ValueError(f'a bndbox that is not finite in {path}')
    return (x1 - 1, y1 - 1, x2, y2) if one_based else (x1, y1, x2, y2)


def discover_classes(folder: Path, names: Iterable[str], order: str = 'sorted') -> list[str]:
    """Return every class name in the XML files ``names``, sorted or in order of appearance."""
    found: dict[str, None] = {}
    for name in names:
        found.update(dict.fromkeys(map(object_name, parse_xml(xml_file(folder, name)).iter('object'))))
    found.pop('', None)
    return sorted(found) if order == 'sorted' else list(found)
