"""labelme's JSON annotations, one file per image."""

import json
import math
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from mmyolo_ext.coco_json import read_once, take_classes
from mmyolo_ext.datasets.checked_coco import CheckedCocoDataset
from mmyolo_ext.datasets.yolo_txt import is_inside, visible_files
from mmyolo_ext.image_io import IMAGE_SUFFIXES, find_file, image_size
from mmyolo_ext.registry import DATASETS

LARGEST_JSON = 200_000_000  # bytes; a file may hold its image
LARGEST = 1_000_000  # px


@DATASETS.register_module()
class LabelmeDataset(CheckedCocoDataset):
    """Images annotated with labelme, with the checks of :class:`CheckedCocoDataset`.

    Rectangles, circles, polygons and masks become boxes; points and lines are dropped.

    Args:
        data_root: Folder of the data set; images must be inside it.
        ann_file: Folder of the JSON files, with its subfolders, relative to ``data_root``; '' for ``data_root``.
        metainfo: ``classes``; shapes of other classes are dropped.
        **kwargs: As of :class:`CheckedCocoDataset`.

    Raises:
        ValueError: On a file that is missing or broken, or an image outside ``data_root``.
    """

    def __init__(self, data_root: str, ann_file: str = '', **kwargs) -> None:
        kwargs['data_prefix'] = {'img': ''}
        super().__init__(data_root=data_root, ann_file=ann_file, **kwargs)

    @property
    def source(self) -> str:
        """What messages call the annotations: their folder."""
        return self.ann_file or self.data_root

    def read_annotations(self) -> dict:
        """Return the annotations as the content of a COCO file."""
        return take_classes(read_labelme(Path(self.source), Path(self.data_root)), self.metainfo['classes'])


def labelme_files(folder: Path) -> list[Path]:
    """Return the JSON files of a folder and its subfolders, sorted."""
    return sorted(file for file in visible_files(folder) if file.suffix.lower() == '.json')


def load_labelme(path: Path) -> dict:
    """Parse a file, without the image in it.

    Raises:
        ValueError: If it is missing, broken, or not of labelme.
    """
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise ValueError(f'it has {path.stat().st_size:,} bytes, at most {LARGEST_JSON:,} are read')
        content = json.loads(path.read_text(encoding='utf-8-sig'))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f'labelme file {path} cannot be read: {error}') from error
    shapes = content.get('shapes') if isinstance(content, dict) else None
    if not isinstance(shapes, list) or not all(isinstance(shape, dict) for shape in shapes):
        raise ValueError(f'{path} is not a labelme file: it has no list "shapes"')
    for shape in shapes:
        if not isinstance(shape.get('label'), str) or not shape['label'].strip():
            raise ValueError(f'{path}: label of a shape must be text, got {shape.get("label")!r}')
        shape['label'] = shape['label'].strip()
    content.pop('imageData', None)
    return content


def discover_labels(files: Iterable[Path]) -> list[str]:
    """Return the labels of all shapes that have a box, sorted."""
    found = {shape['label'] for file in files for shape in load_labelme(file)['shapes'] if _kind(shape) in KINDS}
    return sorted(found)


def read_labelme(folder: Path, root: Path) -> dict:
    """Return images and boxes as the content of a COCO file, with all classes there are.

    A box that cannot be read has an ``error``; ``dropped`` counts what has no box, by reason.
    """
    files = labelme_files(folder)
    key = 'labelme', os.path.abspath(folder), os.path.abspath(root)
    return read_once(key, files, lambda: _read_labelme(files, root))


def _read_labelme(files: Iterable[Path], root: Path) -> dict:
    labels: dict[str, int] = {}
    coco: dict = {'images': [], 'annotations': []}
    dropped: Counter = Counter()
    for image_id, file in enumerate(files, 1):
        content = load_labelme(file)
        image = _find_image(content, file, root)
        sides = content.get('imageWidth'), content.get('imageHeight')
        width, height = sides if all(type(side) is int and side > 0 for side in sides) else image_size(image)
        file_name = image.relative_to(os.path.abspath(root)).as_posix()
        coco['images'].append({'id': image_id, 'file_name': file_name, 'width': width, 'height': height})
        for shape in content['shapes']:
            kind = _kind(shape)
            if kind not in KINDS:
                dropped[f'of shape {str(kind)[:20]}, which has no box'] += 1
                continue
            annotation = {
                'id': len(coco['annotations']) + 1,
                'image_id': image_id,
                'category_id': labels.setdefault(shape['label'], len(labels)),
            }
            try:
                x1, y1, x2, y2 = _box(shape, file)
                annotation['bbox'] = [x1, y1, x2 - x1, y2 - y1]
            except ValueError as error:
                annotation['error'] = str(error)
            coco['annotations'].append(annotation)
    categories = [{'id': label, 'name': name} for name, label in labels.items()]
    return {**coco, 'categories': categories, 'dropped': dict(dropped)}


KINDS = ('rectangle', 'polygon', 'circle', 'mask', 'rotation', 'oriented_rectangle')


def _kind(shape: dict) -> object:
    return shape.get('shape_type') or 'polygon'


def _box(shape: dict, path: Path) -> tuple[float, float, float, float]:
    """Return the corners x1, y1, x2, y2 of the box around a shape."""
    points = shape.get('points')
    try:
        points = [(float(x), float(y)) for x, y in points]
    except (TypeError, ValueError):
        points = []
    if len(points) < 2 or not all(
        math.isfinite(value) and abs(value) <= LARGEST for point in points for value in point
    ):
        raise ValueError(f'{path}: a shape {shape["label"]!r} needs at least two points of finite numbers')
    if _kind(shape) == 'circle':  # its centre, and a point on it
        (x, y), edge = points[:2]
        radius = math.dist((x, y), edge)
        return x - radius, y - radius, x + radius, y + radius
    xs, ys = zip(*points, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _find_image(content: dict, file: Path, root: Path) -> Path:
    name = content.get('imagePath')
    named = [file.parent / name.replace('\\', '/')] if isinstance(name, str) and name and '\0' not in name else []
    found = [path for path in named if path.is_file()]
    found += [path for path in [find_file(file.with_suffix(''), IMAGE_SUFFIXES)] if path]
    inside = [Path(os.path.abspath(path)) for path in found if is_inside(path, root)]
    if inside:
        return inside[0]
    if found:
        raise ValueError(f'{file}: imagePath {name!r} is outside {root}: move the image into it')
    raise ValueError(f'{file}: there is no image {name!r} in its folder: put the image beside the file')
