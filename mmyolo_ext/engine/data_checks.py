"""What can be wrong with the images and boxes of a training, found in seconds before its first step.

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
from dataclasses import dataclass

import numpy as np
import torch

from mmyolo_ext.box_format import suspect_boxes
from mmyolo_ext.image_io import check_sides, decode_image, peculiarities, read_bytes

Finding = tuple[bool, str]

MAX_READ = 200_000  # annotations of images read of a split; of more, evenly spread ones
MAX_DECODED = 64  # images of a split
MAX_STAT = 2000  # files of a split whose sizes are compared
THREADS = 8
SHOWN = 3
THIN = 50  # ratio of sides
SMALL = 10  # px
LOADERS = ('LoadImage', 'LoadImageFromFile')


@dataclass
class Split:
    """The annotations of one split as arrays.

    Attributes:
        name: 'training', 'validation' or 'test'.
        leaves: The data sets that read annotations, inside of all wrappers.
        places: (N) the leaf and the index in it of each image.
        paths: (N) of the images; '' where the data set names none.
        sizes_hw: (N, 2) px, 0 where the data set does not know them.
        boxes_xyxy: (G, 4) px.
        labels: (G,); ``image`` (G,) the position of the image of each box; ``ignored`` (G,) bool.
        complete: Whether all images were read.
        knows_boxes: Whether the data set gives boxes at all.
    """

    name: str
    leaves: list
    places: list[tuple[int, int]]
    paths: list[str]
    sizes_hw: np.ndarray
    boxes_xyxy: np.ndarray
    labels: np.ndarray
    image: np.ndarray
    ignored: np.ndarray
    complete: bool
    knows_boxes: bool


def leaf_datasets(dataset: object) -> Iterator[object]:
    """The data sets that read annotations, through wrappers of one (``dataset``) or several (``datasets``)."""
    if hasattr(dataset, 'datasets'):
        for part in dataset.datasets:
            yield from leaf_datasets(part)
    elif hasattr(dataset, 'dataset'):
        yield from leaf_datasets(dataset.dataset)
    else:
        yield dataset


def spread(length: int, most: int) -> list[int]:
    """Up to ``most`` of the indices below ``length``, evenly spread, the first and the last among them."""
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int)).tolist() if length else []


def read_split(dataset: object, name: str) -> Split:
    """Read the annotations of a split; a data set without ``get_data_info`` counts as one of no images."""
    leaves = [leaf for leaf in leaf_datasets(dataset) if hasattr(leaf, 'get_data_info')]
    places, paths, sizes, boxes, labels, image, ignored = [], [], [], [], [], [], []
    complete, knows_boxes = True, False
    for number, leaf in enumerate(leaves):
        if hasattr(leaf, 'full_init'):
            leaf.full_init()
        indices = spread(len(leaf), MAX_READ // len(leaves))
        complete &= len(indices) == len(leaf)
        for index in indices:
            info = leaf.get_data_info(index)
            knows_boxes |= 'instances' in info
            for instance in info.get('instances') or ():
                if len(instance.get('bbox', ())) == 4:
                    boxes.append(instance['bbox'])
                    labels.append(instance.get('bbox_label', 0))
                    image.append(len(paths))
                    ignored.append(instance.get('ignore_flag', 0))
            places.append((number, index))
            paths.append(str(info.get('img_path') or ''))
            sizes.append((info.get('height') or 0, info.get('width') or 0))
    return Split(
        name,
        leaves,
        places,
        paths,
        np.array(sizes, np.int64).reshape(-1, 2),
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(labels, np.int64),
        np.array(image, np.int64),
        np.array(ignored, bool),
        complete,
        knows_boxes,
    )


def check_split(split: Split) -> list[Finding]:
    """Check one split by itself: boxes, sizes, listed files, and a sample of the images."""
    return [
        *_box_findings(split),
        *_size_findings(split),
        *_repeated_paths(split),
        *_sampled_images(split),
        *_repeated_files(split),
    ]


def check_overlap(train: Split, validation: Split) -> list[Finding]:
    """Images that are trained on and validated on: the same path, or the same content under another one."""
    known = {posixpath.normpath(path) for path in train.paths if path}
    own = [path for path in validation.paths if path]
    shared = [path for path in own if posixpath.normpath(path) in known]
    what = 'are trained on too'
    if not shared:
        shared = _same_content(train, validation)
        what = 'have the content of training images'
    if not shared:
        return []
    return [
        (
            False,
            f'{len(shared)} of {len(own)} validation images {what} ({_some(shared)}): the validation score does not '
            'measure how the model generalises. Split the images anew',
        )
    ]


def _box_findings(split: Split) -> list[Finding]:
    findings = []
    for leaf in split.leaves:
        findings += [(is_error, f'{_file_of(leaf)}: {text}') for is_error, text in getattr(leaf, 'findings', ())]
    if not any(hasattr(leaf, 'findings') for leaf in split.leaves) and len(split.boxes_xyxy):
        sizes_wh = split.sizes_hw[split.image][:, ::-1].astype(np.float64)
        xywh = np.concatenate([split.boxes_xyxy[:, :2], split.boxes_xyxy[:, 2:] - split.boxes_xyxy[:, :2]], 1)
        known = (sizes_wh > 0).all(1)
        keys = np.stack([split.image, split.labels], 1)
        findings += [
            (is_error, f'{split.name} data set: {text}')
            for is_error, text in suspect_boxes(xywh[known], sizes_wh[known], keys[known])
        ]
    if split.knows_boxes and split.name == 'validation' and split.complete and not (~split.ignored).any():
        findings.append(
            (
                True,
                f'{_files_of(split)}: no validation image has a box, so there is nothing to measure. Set val_ann to a '
                'file with boxes, or train without validation: val_dataloader=None, val_cfg=None, val_evaluator=None',
            )
        )
    return findings


def _size_findings(split: Split) -> list[Finding]:
    known = np.flatnonzero((split.sizes_hw > 0).all(1))
    if not len(known):
        return []
    low, high = split.sizes_hw[known].min(1), split.sizes_hw[known].max(1)
    odd = known[(high > THIN * low) | (low < SMALL)]
    if not len(odd):
        return []
    ratios = split.sizes_hw[odd].max(1) / split.sizes_hw[odd].min(1)
    thinnest = odd[ratios.argmax()]
    height, width = split.sizes_hw[thinnest].tolist()
    findings = [
        (
            False,
            f'{len(odd)} {split.name} images are under {SMALL} px or more than {THIN} times as long as wide, such as '
            f'{split.paths[thinnest]} ({width} x {height} px): little of them is left in the network input',
        )
    ]
    number, index = split.places[thinnest]
    if ratios.max() > THIN and (fault := _pipeline_fault(split.leaves[number], index)):
        findings.append(
            (
                True,
                f'the pipeline of the {split.name} data set cannot process {split.paths[thinnest]} '
                f'({width} x {height} px): {fault}. Leave such images out, or resize by mmyolo_ext.Letterbox',
            )
        )
    return findings


def _pipeline_fault(leaf: object, index: int) -> str:
    if not getattr(leaf, 'pipeline', None):
        return ''
    with _kept_generators():
        try:
            leaf.pipeline(leaf.get_data_info(index))
        except Exception as error:  # of any transform of the user's
            text = str(error).strip().splitlines()
            return f'{type(error).__name__}: {text[-1] if text else ""}'
    return ''


@contextlib.contextmanager
def _kept_generators() -> Iterator[None]:
    """Leave Python's, NumPy's and PyTorch's generators as they were: a check must not change the training."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _repeated_paths(split: Split) -> list[Finding]:
    counts = Counter(path for path in split.paths if path)
    repeated = [path for path, count in counts.items() if count > 1]
    if not repeated:
        return []
    return [
        (False, f'{len(repeated)} {split.name} images are listed more than once ({_some(repeated)}): list each once')
    ]


def _sampled_images(split: Split) -> list[Finding]:
    """Decode a sample of the images as training does."""
    positions = [
        position
        for position in spread(len(split.paths), MAX_DECODED)
        if split.paths[position] and _loader(split.leaves[split.places[position][0]]) is not None
    ]

    def look(position: int) -> tuple[str, list[str]]:
        """Why an image cannot be used, or '', and what is unusual about it."""
        leaf = split.leaves[split.places[position][0]]
        try:
            content = read_bytes(split.paths[position], getattr(_loader(leaf), 'backend_args', None))
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

    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        looks = list(pool.map(look, positions))
    sampled, findings = f'{len(positions)} sampled {split.name} images', []
    faults = [(position, fault) for position, (fault, _) in zip(positions, looks, strict=True) if fault]
    if faults:
        position, fault = faults[0]
        skips = getattr(_loader(split.leaves[split.places[position][0]]), 'skip_broken', False)
        count = f' ({len(faults)} of {sampled} cannot be used)' if len(faults) > 1 else ''
        findings.append(
            (not skips or len(faults) == len(positions), f'cannot use image {split.paths[position]}: {fault}{count}')
        )
    unusual = defaultdict(list)
    for position, (_, clauses) in zip(positions, looks, strict=True):
        for clause in clauses:
            unusual[clause].append(split.paths[position])
    findings += [(False, f'{len(paths)} of {sampled} ({_some(paths)}) {clause}') for clause, paths in unusual.items()]
    return findings


def _repeated_files(split: Split) -> list[Finding]:
    """Images of the same content under several names."""
    chosen = sorted({split.paths[position] for position in spread(len(split.paths), MAX_STAT)} - {''})
    groups = [paths for paths in _by_content(chosen).values() if len(paths) > 1]
    if not groups:
        return []
    count = sum(len(paths) - 1 for paths in groups)
    return [
        (
            False,
            f'{count} of {len(chosen)} {split.name} images have the content of another one ({_some(groups[0])}): '
            'remove the copies',
        )
    ]


def _same_content(train: Split, validation: Split) -> list[str]:
    """Validation images whose content a training image has; of large splits, those of the same file name."""
    own = sorted({validation.paths[position] for position in spread(len(validation.paths), MAX_STAT)} - {''})
    others = {path for path in train.paths if path}
    if len(others) > MAX_STAT:
        by_name = {os.path.basename(path): path for path in others}
        own = [own[position] for position in spread(len(own), MAX_DECODED)]
        others = {by_name[name] for path in own if (name := os.path.basename(path)) in by_name}
    groups = _by_content([*own, *sorted(others)])
    return sorted(path for paths in groups.values() if others & set(paths) for path in paths if path not in others)


def _by_content(paths: Sequence[str]) -> dict[tuple[int, bytes], list[str]]:
    """Local files by size and hash; of files whose size no other has, nothing is read."""
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
    """The transform of a data set that reads its image files; None if it has another kind or none."""
    steps = getattr(getattr(leaf, 'pipeline', None), 'transforms', ())
    return next((step for step in steps if type(step).__name__ in LOADERS), None)


def _file_of(leaf: object) -> str:
    return str(getattr(leaf, 'ann_file', '') or type(leaf).__name__)


def _files_of(split: Split) -> str:
    return ', '.join(map(_file_of, split.leaves))


def _some(paths: Sequence[str]) -> str:
    return ', '.join(paths[:SHOWN]) + (', ...' if len(paths) > SHOWN else '')
