"""Check images and boxes of a training before its first step.

A finding is a pair: whether it is an error, and a sentence that names what was found, where, and the cure.

Letters: N images, G boxes.
"""

import contextlib
import hashlib
import os
import posixpath
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

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
        self.name = name
        self.leaves = [leaf for leaf in leaf_datasets(dataset) if hasattr(leaf, 'get_data_info')]
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

    def leaf(self, position: int) -> object:
        """Return the dataset of an image."""
        return self.leaves[self.places[position][0]]


def leaf_datasets(dataset: object) -> Iterator[object]:
    """Yield the datasets inside wrappers of one (``dataset``) or several (``datasets``)."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from leaf_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset


def spread(length: int, most: int) -> list[int]:
    """Return up to ``most`` of the indices below ``length``, evenly spread, including the first and the last."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist() if length else []


def check_split(split: Split) -> list[Finding]:
    """Check one split by itself: boxes, sizes, listed files, and a sample of the images."""
    checks = (_check_boxes, _check_sizes, _check_repeated_paths, _check_sampled_images, _check_copies)
    return [finding for check in checks for finding in check(split)]


def check_overlap(train: Split, validation: Split) -> list[Finding]:
    """Find images used in both training and validation: the same path, or the same content under another path."""
    known = {posixpath.normpath(path) for path in train.paths if path}
    own = [path for path in validation.paths if path]
    shared, what = [path for path in own if posixpath.normpath(path) in known], 'are trained on too'
    if not shared:
        shared, what = _same_content(train, validation), 'have the content of training images'
    text = (
        f'{len(shared)} of {len(own)} validation images {what} ({_some(shared)}): the validation score does not '
        'measure how the model generalises. Split the images anew'
    )
    return [(False, text)] if shared else []


def _check_boxes(split: Split) -> Iterator[Finding]:
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
    if split.has_boxes and split.name == 'validation' and split.complete and split.ignored.all():
        yield (
            True,
            f'{", ".join(map(_file_of, split.leaves))}: no validation image has a box, so there is nothing to '
            'measure. Set val_ann to a file with boxes, or train without validation: val_dataloader=None, '
            'val_cfg=None, val_evaluator=None',
        )


def _check_sizes(split: Split) -> Iterator[Finding]:
    low, high = split.sizes_hw.min(1, initial=1 << 30), split.sizes_hw.max(1, initial=0)
    odd = np.flatnonzero((low > 0) & ((high > THIN * low) | (low < SMALL)))
    if not len(odd):
        return
    thinnest = odd[(high[odd] / low[odd]).argmax()]
    path, (height, width) = split.paths[thinnest], split.sizes_hw[thinnest].tolist()
    yield (
        False,
        f'{len(odd)} {split.name} images are under {SMALL} px or more than {THIN} times as long as wide, such as '
        f'{path} ({width} x {height} px): little of them is left in the network input',
    )
    if high[thinnest] > THIN * low[thinnest]:
        fault = _pipeline_fault(split.leaf(thinnest), split.places[thinnest][1])
        if fault:
            yield (
                True,
                f'the pipeline of the {split.name} data set cannot process {path} ({width} x {height} px): {fault}. '
                'Leave such images out, or resize by mmyolo_ext.Letterbox',
            )


def _pipeline_fault(leaf: object, index: int) -> str:
    """Return why the pipeline fails on an image, or ''; generators are left as they were."""
    if not getattr(leaf, 'pipeline', None):
        return ''
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        leaf.pipeline(leaf.get_data_info(index))
    except Exception as error:  # of any transform of the user's
        text = str(error).strip().splitlines()
        return f'{type(error).__name__}: {text[-1] if text else ""}'
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
    return ''


def _check_repeated_paths(split: Split) -> Iterator[Finding]:
    repeated = [path for path, count in Counter(filter(None, split.paths)).items() if count > 1]
    if repeated:
        yield (
            False,
            f'{len(repeated)} {split.name} images are listed more than once ({_some(repeated)}): list each once',
        )


def _check_sampled_images(split: Split) -> Iterator[Finding]:
    """Decode a sample of the images as training does."""
    positions = [
        position
        for position in spread(len(split.paths), MAX_DECODED)
        if split.paths[position] and _loader(split.leaf(position)) is not None
    ]
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = list(pool.map(lambda position: _inspect(split, position), positions))
    sampled = f'{len(positions)} sampled {split.name} images'
    faults = [(position, fault) for position, (fault, _) in zip(positions, results, strict=True) if fault]
    if faults:
        position, fault = faults[0]
        skips = getattr(_loader(split.leaf(position)), 'skip_broken', False)
        count = f' ({len(faults)} of {sampled} cannot be used)' if len(faults) > 1 else ''
        yield (
            not skips or len(faults) == len(positions),
            f'cannot use image {split.paths[position]}: {fault}{count}',
        )
    unusual = defaultdict(list)
    for position, (_, clauses) in zip(positions, results, strict=True):
        for clause in clauses:
            unusual[clause].append(split.paths[position])
    for clause, paths in unusual.items():
        yield False, f'{len(paths)} of {sampled} ({_some(paths)}) {clause}'


def _inspect(split: Split, position: int) -> tuple[str, list[str]]:
    """Return why an image cannot be used, or '', and clauses about what is unusual."""
    try:
        content = read_bytes(split.paths[position], getattr(_loader(split.leaf(position)), 'backend_args', None))
        image, complaint = decode_image(content)
        height, width = split.sizes_hw[position].tolist()
        check_sides(image, {'height': height, 'width': width} if height and width else {})
    except ValueError as error:
        return str(error), []
    unusual = peculiarities(content)
    if complaint:
        unusual.append('may be damaged, their JPEG data hold more than the image: copy them again')
    if image.size and (image == image[0, 0]).all() and image.shape[0] * image.shape[1] > 1:
        unusual.append('are of a single colour: are they whole?')
    return '', unusual


def _check_copies(split: Split) -> Iterator[Finding]:
    """Find images of the same content under several names."""
    chosen = sorted({split.paths[position] for position in spread(len(split.paths), MAX_STAT)} - {''})
    groups = [paths for paths in _by_content(chosen).values() if len(paths) > 1]
    if groups:
        yield (
            False,
            f'{sum(map(len, groups)) - len(groups)} of {len(chosen)} {split.name} images have the content of another '
            f'one ({_some(groups[0])}): remove the copies',
        )


def _same_content(train: Split, validation: Split) -> list[str]:
    """Return validation images whose content a training image has; of large splits, those of the same file name."""
    own = sorted({validation.paths[position] for position in spread(len(validation.paths), MAX_STAT)} - {''})
    others = {path for path in train.paths if path}
    if len(others) > MAX_STAT:
        by_name = {os.path.basename(path): path for path in others}
        own = [own[position] for position in spread(len(own), MAX_DECODED)]
        others = {by_name[name] for path in own if (name := os.path.basename(path)) in by_name}
    groups = _by_content([*own, *sorted(others)])
    return sorted(path for paths in groups.values() if others & set(paths) for path in paths if path not in others)


def _by_content(paths: Sequence[str]) -> dict[tuple[int, bytes], list[str]]:
    """Group local files by size and hash; a file whose size is unique is not read."""
    by_size, found = defaultdict(list), defaultdict(list)
    for path in paths:
        with contextlib.suppress(OSError, ValueError):
            if os.path.isfile(path):
                by_size[os.path.getsize(path)].append(path)
    for size, alike in by_size.items():
        for path in alike if len(alike) > 1 else ():
            with contextlib.suppress(OSError), open(path, 'rb') as file:
                found[size, hashlib.blake2b(file.read()).digest()].append(path)
    return found


def _loader(leaf: object) -> object | None:
    """Return the transform that reads image files, or None."""
    steps = getattr(getattr(leaf, 'pipeline', None), 'transforms', ())
    return next((step for step in steps if type(step).__name__ in LOADERS), None)


def _file_of(leaf: object) -> str:
    return str(getattr(leaf, 'ann_file', '') or type(leaf).__name__)


def _some(paths: Sequence[str]) -> str:
    return ', '.join(paths[:3]) + (', ...' if len(paths) > 3 else '')
