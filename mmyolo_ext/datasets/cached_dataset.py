"""A dataset with a cache of decoded images, shared by its workers.

Letters: N images, G boxes of all images, C classes.
"""

import hashlib
import mmap
import os
import pickle
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmyolo_ext.registry import DATASETS

from .transforms.annotations import Annotations, as_boxes, stack_soft_labels
from .transforms.functional import check_range, check_size_hw, shrink_image, shrunk_hw

CHECKSUM = np.dtype(np.uint32)
LOADING = ('LoadImage', 'LoadImageFromFile', 'LoadAnnotations')


@DATASETS.register_module()
class CachedDataset(Dataset):
    """Keep the decoded images of a dataset in memory that its workers share, and its boxes in arrays.

    Samples are the same with and without the cache: ``img``, read-only, shrunk by area interpolation to fit ``size``
    if it is larger and never enlarged, and its boxes.

    Images are kept up to ``max_gb``, and the log reports how many fit; the others are decoded each time. Each process
    of a distributed training has its own cache; with a ``folder``, all processes and later trainings share one memory
    mapped file.

    Args:
        dataset: Config of a dataset, or the dataset: an mmengine ``BaseDataset`` whose pipeline only loads;
            ``LoadAnnotations`` may be left out of it.
        size: (height, width) that images must fit into, or the side of a square; None keeps their size.
        max_gb: Limit of the cache in GB (10^9 bytes); 0 disables it.
        folder: Where to keep the images on disk.

    Raises:
        ValueError: On an argument out of its range, a dataset of another type, or a pipeline that does more.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        size: int | Sequence[int] | None = None,
        max_gb: float = 2.0,
        folder: str | None = None,
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not isinstance(self.dataset, BaseDataset):
            raise ValueError(f'CachedDataset wraps an mmengine BaseDataset, got {type(self.dataset).__name__}')
        steps = [type(step).__name__ for step in self.dataset.pipeline.transforms]
        if not set(steps) <= set(LOADING):
            raise ValueError(
                f'the pipeline inside CachedDataset may only have {LOADING}, since its results are cached; got '
                f'{steps}: move the other transforms to the pipeline of SeededDataset'
            )
        self.size_hw = None if size is None else check_size_hw('size', size)
        self.max_gb = check_range('max_gb', max_gb, 0, float('inf'))
        self.folder = folder
        self._fully_initialized = False
        if self.dataset._fully_initialized:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Metainfo of the dataset inside."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations and create the cache, once."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        self._arrays = AnnotationArrays(self.dataset.get_data_info(i) for i in range(len(self.dataset)))
        infos = [self._arrays.info(i) for i in range(len(self._arrays))]
        originals_hw = [_size_hw(info) for info in infos]
        shapes_hw = np.array([shrunk_hw(hw, self.size_hw) for hw in originals_hw], np.int64).reshape(-1, 2)
        self._arrays.scale((shapes_hw / np.reshape(originals_hw, (-1, 2)))[:, ::-1])
        paths, file = [info['img_path'] for info in infos], None
        if self.folder is not None:  # a file named by everything that its bytes depend on
            loaders = [repr(step) for step in self.dataset.pipeline.transforms]
            key = repr((paths, self.size_hw, self.max_gb, loaders, cv2.__version__)).encode()
            file = Path(self.folder) / f'{hashlib.sha256(key).hexdigest()[:16]}.images'
        self._cache = ImageCache(shapes_hw, self.max_gb * 1e9, paths, file)
        self._length = len(infos)
        self._fully_initialized = True
        if self.max_gb:
            self._log()

    def _log(self) -> None:
        cache, total = self._cache, len(self)
        where = 'memory' if self.folder is None else self.folder
        if cache.kept == total:
            text = f'all {total} decoded images fit into the cache: {cache.kept_bytes / 1e9:.2f} GB in {where}'
        else:
            text = (
                f'the cache holds {cache.kept} of {total} decoded images, {cache.kept_bytes / 1e9:.2f} of '
                f'{cache.all_bytes / 1e9:.2f} GB, in {where}; the others are decoded each time. Raise max_gb of '
                f'CachedDataset (now {self.max_gb}) if you have the memory'
            )
        print_log(text, logger='current')

    def __len__(self) -> int:
        self.full_init()
        return self._length

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of an image, from the dataset inside."""
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the labels of an image, for mmengine's ``ClassBalancedDataset``."""
        self.full_init()
        annotations = self._arrays.annotations(index)
        return annotations.labels[~annotations.ignore].tolist()

    def __getitem__(self, index: int) -> dict:
        index, image = self._image(index)
        info, (height, width) = self._arrays.info(index), image.shape[:2]
        old_height, old_width = _size_hw(info)
        return {
            **info,
            'ori_shape': (old_height, old_width),
            'scale_factor': (width / old_width, height / old_height),
            'keep_ratio': True,
            **self._image_and_boxes(index, image),
        }

    def image_and_boxes(self, index: int) -> dict:
        """Return a sample without metadata such as ``img_path``: what transforms read of the partners of a mix."""
        return self._image_and_boxes(*self._image(index))

    def _image(self, index: int) -> tuple[int, np.ndarray]:
        """Return the image of ``index``, or of the sample that replaces it, after its index."""
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f'index {index} is out of range for a dataset of {length} samples')
        index %= length
        image = self._cache.get(index)
        if image is None:
            loaded = self.dataset[index]
            index = loaded['sample_idx']  # another one, if an unusable image was skipped
            found_hw, annotated_hw = loaded['img'].shape[:2], _size_hw(loaded)
            if found_hw != annotated_hw:
                raise ValueError(
                    f'image {loaded["img_path"]} is {found_hw} (height, width), its annotation has {annotated_hw}: '
                    'correct the annotation'
                )
            image = shrink_image(loaded['img'], self.size_hw)
            self._cache.put(index, image)
            image.flags.writeable = False
        return index, image

    def _image_and_boxes(self, index: int, image: np.ndarray) -> dict:
        annotations = self._arrays.annotations(index)
        soft_labels = {} if annotations.soft_labels is None else {'gt_soft_labels': annotations.soft_labels.copy()}
        return {
            'img': image,
            'img_shape': image.shape[:2],
            'gt_bboxes': as_boxes(annotations.boxes_xyxy.copy()),
            'gt_bboxes_labels': annotations.labels.copy(),
            'gt_ignore_flags': annotations.ignore.copy(),
            **soft_labels,
        }


class AnnotationArrays:
    """Annotations of a dataset in a few arrays, which forked workers share.

    Python objects would be copied into each worker, page by page, as their reference counts change.

    Args:
        infos: (N) as from ``get_data_info``. Of each of its ``instances``, ``bbox`` (xyxy px), ``bbox_label``,
            ``ignore_flag`` and ``soft_label`` are kept.
    """

    def __init__(self, infos: Iterable[dict]) -> None:
        rest, boxes, labels, ignore, soft_labels, counts = [], [], [], [], [], []
        for info in infos:
            instances = info.get('instances') or []
            boxes += [instance['bbox'] for instance in instances]
            labels += [instance['bbox_label'] for instance in instances]
            ignore += [instance.get('ignore_flag', 0) for instance in instances]
            soft_labels += [instance.get('soft_label') for instance in instances]
            counts.append(len(instances))
            rest.append(pickle.dumps({key: value for key, value in info.items() if key != 'instances'}))
        self._boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        self._labels = np.array(labels, np.int64)
        self._ignore = np.array(ignore, bool)
        self._soft_labels = stack_soft_labels(soft_labels, self._labels)
        self._box_ends = np.cumsum([0, *counts])
        self._rest = np.frombuffer(b''.join(rest), np.uint8)
        self._rest_ends = np.cumsum([0, *map(len, rest)])

    def __len__(self) -> int:
        return len(self._box_ends) - 1

    def info(self, index: int) -> dict:
        """Return a new dict of all but the instances of an image."""
        return pickle.loads(self._rest[self._rest_ends[index] : self._rest_ends[index + 1]])

    def scale(self, scales_wh: np.ndarray) -> None:
        """Multiply the boxes by the scales (N, 2) of their images, in place."""
        self._boxes_xyxy *= np.repeat(np.tile(scales_wh, 2), np.diff(self._box_ends), axis=0)

    def annotations(self, index: int) -> Annotations:
        """Return views of the boxes of one image."""
        own = slice(self._box_ends[index], self._box_ends[index + 1])
        soft_labels = None if self._soft_labels is None else self._soft_labels[own]
        return Annotations(self._boxes_xyxy[own], self._labels[own], self._ignore[own], soft_labels)


class ImageCache:
    """Decoded images of known size in one block of memory that processes share.

    The block is anonymous memory that forked workers share, or a file that all processes of this and later runs map.
    An image is valid if its checksum fits its pixels and, in a file, the path, time and size of its source. So
    partly written images, changed sources and damaged files read as missing, in whatever order processes see the
    writes of each other. The system allocates the memory as it is filled.

    A spawned process cannot inherit anonymous memory: its cache stays empty, unless it is a file.

    Args:
        shapes_hw: (N, 2) sizes; the first images that fit into ``max_bytes`` are kept.
        max_bytes: Limit of all pixels.
        sources: (N) paths of the images, for checksums in a file.
        path: Of the file, whose folder is created; None for memory.

    Raises:
        ValueError: If the file cannot be created at its full size.
    """

    def __init__(
        self, shapes_hw: np.ndarray, max_bytes: float, sources: Sequence[str] = (), path: Path | None = None
    ) -> None:
        sizes = np.asarray(shapes_hw, np.int64).prod(axis=1) * 3
        self.all_bytes = int(sizes.sum())
        self.kept = int(np.searchsorted(np.cumsum(sizes), max_bytes, side='right'))
        self.kept_bytes = int(sizes[: self.kept].sum())
        self._shapes_hw = np.asarray(shapes_hw, np.int64)[: self.kept].copy()
        self._starts = self.kept * CHECKSUM.itemsize + np.cumsum([0, *sizes[: self.kept]])
        self._sources, self._path = tuple(sources), path
        self._valid = np.zeros(self.kept, bool)  # as found by this process
        self._open()

    def get(self, index: int) -> np.ndarray | None:
        """Return a read-only view of the image (H, W, 3) uint8, or None if it is missing."""
        if index >= self.kept or self._block is None:
            return None
        if not self._valid[index]:
            checksum = self._checksums[index]
            self._valid[index] = checksum != 0 and checksum == self._checksum(index)
            if not self._valid[index]:
                return None
        image = self._pixels(index)
        image.flags.writeable = False
        return image

    def put(self, index: int, image: np.ndarray) -> None:
        """Keep an image, if it is among the first that fit and has the expected size."""
        if index >= self.kept or self._block is None or image.shape[:2] != tuple(self._shapes_hw[index]):
            return
        self._pixels(index)[...] = image
        checksum = self._checksum(index)
        if checksum is not None:
            self._checksums[index] = checksum
            self._valid[index] = True

    def _open(self) -> None:
        self._block, size = None, int(self._starts[-1])
        if self.kept:
            self._block = mmap.mmap(-1, size) if self._path is None else _map_file(self._path, size)
            self._checksums = np.frombuffer(self._block, CHECKSUM, self.kept)

    def _pixels(self, index: int) -> np.ndarray:
        shape = (*self._shapes_hw[index].tolist(), 3)
        return np.ndarray(shape, np.uint8, self._block, self._starts[index])

    def _checksum(self, index: int) -> int | None:
        """Return the checksum of the pixels, never 0; None if the source of an image in a file cannot be read."""
        start = 0
        if self._path is not None:
            try:
                source = os.stat(self._sources[index])
            except OSError:
                return None
            start = zlib.crc32(f'{self._sources[index]} {source.st_mtime_ns} {source.st_size}'.encode())
        return zlib.crc32(self._pixels(index), start) or 1

    def __getstate__(self) -> dict:
        return {**self.__dict__, '_block': None, '_checksums': None, '_valid': np.zeros(self.kept, bool)}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        if self._path is not None:
            self._open()


def _map_file(path: Path, size: int) -> mmap.mmap:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), 'r+b') as file:
        try:
            # Reserve the space now: a full disk would kill the process at a later write.
            if hasattr(os, 'posix_fallocate'):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(max(size, os.fstat(file.fileno()).st_size))
        except OSError as error:
            raise ValueError(
                f'cannot create {path} of {size / 1e9:.2f} GB: {error.strerror or error}. Choose another folder or a '
                'smaller max_gb'
            ) from error
        return mmap.mmap(file.fileno(), size)


def _size_hw(info: dict) -> tuple[int, int]:
    if not info.get('height') or not info.get('width'):
        raise ValueError(f'CachedDataset needs height and width in the annotation of {info.get("img_path")}')
    return info['height'], info['width']
