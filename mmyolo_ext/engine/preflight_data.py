"""Look at images and boxes of a training or test before its first step: any dataset of MMDetection, a sample of files.

``mmyolo-ext check`` (:mod:`mmyolo_ext.datasets.data_check`) reads all files of a data set, also of a broken one.

A finding is a pair: whether it is an error, and a sentence that names what was found, where, and the cure.

Letters: N images, G boxes.
"""

import contextlib
import hashlib
import os
import posixpath
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from mmyolo_ext.boxes import suspect_boxes
from mmyolo_ext.image_io import check_sides, decode_image, peculiarities, read_bytes

Finding = tuple[bool, str]

MAX_READ = 200_000  # images of a split whose annotations are read, evenly spread
MAX_DECODED = 64  # images of a split
MAX_STAT = 2000  # files of a split whose sizes are compared
THIN = 50  # ratio of sides
SMALL = 10  # px
LOADERS = ('LoadImage', 'LoadImageFromFile')


class Split:
    """The annotations of one split as arrays.

    Args:
        dataset: Any dataset; one without ``get_data_info`` counts as empty.
        name: 'training', 'validation' or 'test'.

    Attributes:
        leaves: The datasets inside all wrappers.
        places: (N) dataset in ``leaves`` and index in it of each image.
        paths: (N) of the images; '' if unknown.
        sizes_hw: (N, 2) px; 0 if unknown.
        boxes_xyxy: (G, 4) px, with ``labels``, ``image`` (position of the image) and ``ignored``, each (G,).
        complete: Whether all images were read.
        has_boxes: Whether the datasets annotate boxes.
    """

    def __init__(self, dataset: object, name: str) -> None:
        self.name, self.classes = name, class_names(dataset)
        self.leaves = leaf_datasets(dataset)
        self.places: list[tuple[int, int]] = []
        self.paths: list[str] = []
        self.complete, self.has_boxes = True, False
        sizes, boxes = [], []
        for number, leaf in enumerate(self.leaves):
            if hasattr(leaf, 'full_init'):
                leaf.full_init()
            indices = spread(len(leaf), MAX_READ // len(self.leaves))
            self.complete &= len(indices) == len(leaf)
            for index in indices:
                info = leaf.get_data_info(index)
                self.has_boxes |= 'instances' in info
                boxes += [
                    (*box['bbox'], box.get('bbox_label', 0), len(self.paths), box.get('ignore_flag', 0))
                    for box in info.get('instances') or ()
                    if len(box.get('bbox', ())) == 4
                ]
                self.places.append((number, index))
                self.paths.append(str(info.get('img_path') or ''))
                sizes.append((info.get('height') or 0, info.get('width') or 0))
        self.sizes_hw = np.array(sizes, np.int64).reshape(-1, 2)
        rows = np.array(boxes, np.float64).reshape(-1, 7)
        self.boxes_xyxy = rows[:, :4]
        self.labels, self.image = rows[:, 4].astype(np.int64), rows[:, 5].astype(np.int64)
        self.ignored = rows[:, 6].astype(bool)

    def sample(self, most: int) -> list[str]:
        """Return the paths of up to ``most`` images, evenly spread and sorted, each once."""
        return sorted({self.paths[position] for position in spread(len(self.paths), most)} - {''})

    def loader(self, position: int) -> object | None:
        """Return the transform that reads the file of an image, or None."""
        steps = getattr(getattr(self.leaves[self.places[position][0]], 'pipeline', None), 'transforms', ())
        return next((step for step in steps if type(step).__name__ in LOADERS), None)


def class_names(dataset: object) -> tuple[str, ...] | None:
    """Return the classes that a dataset declares; None if it declares none."""
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    return (classes,) if isinstance(classes, str) else classes and tuple(classes)


def nested_datasets(dataset: object) -> Iterator[object]:
    """Yield a dataset and those that it wraps, one (``dataset``) or several (``datasets``)."""
    yield dataset
    for part in getattr(dataset, 'datasets', [dataset.dataset] if hasattr(dataset, 'dataset') else []):
        yield from nested_datasets(part)


def leaf_datasets(dataset: object) -> list[object]:
    """Return the datasets inside all wrappers that give their annotations by ``get_data_info``."""
    parts = nested_datasets(dataset)
    return [
        p for p in parts if hasattr(p, 'get_data_info') and not hasattr(p, 'datasets') and not hasattr(p, 'dataset')
    ]


def spread(length: int, most: int) -> list[int]:
    """Return up to ``most`` of the indices below ``length``, evenly spread, including the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist() if length else []


def check_split(split: Split) -> list[Finding]:
    """Check one split by itself: boxes, sizes, listed files, and a sample of the images."""
    checks = (_check_boxes, _check_sizes, _check_repeated_paths, _check_sampled_images, _check_copies)
    return [finding for check in checks for finding in check(split)]


def check_overlap(train: Split, validation: Split) -> list[Finding]:
    """Find images used in both training and validation: the same path, or the same content under another path.

    Of each split at most 2000 files, evenly spread, are compared by their content.
    """
    known = {posixpath.normpath(path) for path in train.paths if path}
    own = [path for path in validation.paths if path]
    shared, what = [path for path in own if posixpath.normpath(path) in known], 'are trained on too'
    if not shared:
        trained, validated = set(train.sample(MAX_STAT)), validation.sample(MAX_STAT)
        groups = _by_content([*validated, *sorted(trained)])
        shared = sorted(path for paths in groups if trained & set(paths) for path in paths if path not in trained)
        what = 'have the content of training images'
    text = (
        f'{len(shared)} of {len(own)} validation images {what} ({_some(shared)}): the validation score does not '
        'measure how the model generalises. Split the images anew'
    )
    return [(False, text)] if shared else []


def _check_boxes(split: Split) -> Iterator[Finding]:
    files = ', '.join(map(_file_of, split.leaves))
    for leaf in split.leaves:
        for is_error, text in getattr(leaf, 'findings', ()):
            yield is_error, f'{_file_of(leaf)}: {text}'
    if not any(hasattr(leaf, 'findings') for leaf in split.leaves) and len(split.boxes_xyxy):
        sizes_wh = split.sizes_hw[split.image][:, ::-1].astype(np.float64)
        xywh = np.concatenate([split.boxes_xyxy[:, :2], split.boxes_xyxy[:, 2:] - split.boxes_xyxy[:, :2]], 1)
        known = (sizes_wh > 0).all(1)
        keys = np.stack([split.image, split.labels], 1)
        for is_error, text in suspect_boxes(xywh[known], sizes_wh[known], keys[known]):
            yield is_error, f'{split.name} data set: {text}'
    wrong = sorted(set(split.labels.tolist()).difference(range(len(split.classes or ()))))
    if wrong and split.classes is not None:
        yield True, f'{files}: the labels {wrong} are out of range, there are {len(split.classes)} classes'
    if split.has_boxes and split.complete and split.ignored.all():
        cure = {
            'training': f'to learn. Compare the classes {split.classes} with the names in the file',
            'validation': 'to measure. Set val_ann to a file with boxes, or train without validation: '
            'val_dataloader=None, val_cfg=None, val_evaluator=None',
        }
        if split.name in cure:
            yield True, f'{files}: no {split.name} image has a box, so there is nothing {cure[split.name]}'


def _check_sizes(split: Split) -> Iterator[Finding]:
    low, high = split.sizes_hw.min(1, initial=1 << 30), split.sizes_hw.max(1, initial=0)
    odd = np.flatnonzero((low > 0) & ((high > THIN * low) | (low < SMALL)))
    if not len(odd):
        return
    thinnest = odd[(high[odd] / low[odd]).argmax()]
    height, width = split.sizes_hw[thinnest].tolist()
    image = f'{split.paths[thinnest]} ({width} x {height} px)'
    yield (
        False,
        f'{len(odd)} {split.name} images are under {SMALL} px or more than {THIN} times as long as wide, such as '
        f'{image}: little of them is left in the network input',
    )
    number, index = split.places[thinnest]
    leaf = split.leaves[number]
    if high[thinnest] > THIN * low[thinnest] and getattr(leaf, 'pipeline', None):
        try:
            leaf.pipeline(leaf.get_data_info(index))
        except Exception as error:  # of any transform of the user's
            yield (
                True,
                f'the pipeline of the {split.name} data set cannot process {image}: {str(error).strip()}. '
                'Leave such images out, or resize by mmyolo_ext.Letterbox',
            )


def _check_repeated_paths(split: Split) -> Iterator[Finding]:
    repeated = [path for path, count in Counter(filter(None, split.paths)).items() if count > 1]
    if repeated:
        text = f'{len(repeated)} {split.name} images are listed more than once ({_some(repeated)}): list each once'
        yield False, text


def _check_sampled_images(split: Split) -> Iterator[Finding]:
    """Decode a sample of the images as training does."""
    positions = spread(len(split.paths), MAX_DECODED)
    positions = [p for p in positions if split.paths[p] and split.loader(p) is not None]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda position: _inspect(split, position), positions))
    sampled = f'{len(positions)} sampled {split.name} images'
    faults, unusual = [], defaultdict(list)
    for position, (fault, clauses) in zip(positions, results, strict=True):
        faults += [(position, fault)] if fault else []
        for clause in clauses:
            unusual[clause].append(split.paths[position])
    if faults:
        position, fault = faults[0]
        skips = getattr(split.loader(position), 'skip_broken', False)
        count = f' ({len(faults)} of {sampled} cannot be used)' if len(faults) > 1 else ''
        is_error = not skips or len(faults) == len(positions)
        yield is_error, f'cannot use image {split.paths[position]}: {fault}{count}'
    for clause, paths in unusual.items():
        yield False, f'{len(paths)} of {sampled} ({_some(paths)}) {clause}'


def _inspect(split: Split, position: int) -> tuple[str, list[str]]:
    """Return why an image cannot be used, or '', and clauses about what is unusual."""
    try:
        content = read_bytes(split.paths[position], getattr(split.loader(position), 'backend_args', None))
        image, complaint = decode_image(content)
        height, width = split.sizes_hw[position].tolist()
        check_sides(image, {'height': height, 'width': width} if height and width else {})
    except ValueError as error:
        return str(error), []
    unusual = peculiarities(content)
    if complaint:
        unusual.append('may be damaged, their JPEG data hold more than the image: copy them again')
    if image.size > 3 and (image == image[0, 0]).all():
        unusual.append('are of a single colour: are they whole?')
    return '', unusual


def _check_copies(split: Split) -> Iterator[Finding]:
    """Find images of the same content under several names."""
    chosen = split.sample(MAX_STAT)
    groups = [paths for paths in _by_content(chosen) if len(paths) > 1]
    if groups:
        yield (
            False,
            f'{sum(map(len, groups)) - len(groups)} of {len(chosen)} {split.name} images have the content of another '
            f'one ({_some(groups[0])}): remove the copies',
        )


def _by_content(paths: Sequence[str]) -> list[list[str]]:
    """Group local files by size and hash; a file whose size is unique is not read."""
    by_size, found = defaultdict(list), defaultdict(list)
    for path in filter(os.path.isfile, paths):
        by_size[os.path.getsize(path)].append(path)
    for size, alike in by_size.items():
        for path in alike if len(alike) > 1 else ():
            with contextlib.suppress(OSError), open(path, 'rb') as file:
                found[size, hashlib.blake2b(file.read()).digest()].append(path)
    return list(found.values())


def _file_of(leaf: object) -> str:
    return str(getattr(leaf, 'source', '') or getattr(leaf, 'ann_file', '') or type(leaf).__name__)


def _some(paths: Sequence[str]) -> str:
    return ', '.join(paths[:3]) + (', ...' if len(paths) > 3 else '')
