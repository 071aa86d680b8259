"""A dataset with a cache of decoded images, shared by its workers.

Letters: N images, G boxes of all images, C classes.
"""

import hashlib
import mmap
import os
import zlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmyolo_ext.datasets.transforms.annotations import Annotations, as_boxes, stack_soft_labels
from mmyolo_ext.datasets.transforms.functional import annotated_hw, check_range, check_size_hw, shrink_image, shrunk_hw
from mmyolo_ext.registry import DATASETS

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
        ValueError: On an argument out of its range, or a pipeline that does more.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        size: int | Sequence[int] | None = None,
        max_gb: float = 2.0,
        folder: str | None = None,
    ) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        steps = [type(step).__name__ for step in self.dataset.pipeline.transforms]
        if not set(steps) <= set(LOADING):
            raise ValueError(
                f'the pipeline inside CachedDataset may only have {LOADING}, got {steps}: move the others to the '
                'pipeline of SeededDataset'
            )
        self.size_hw = None if size is None else check_size_hw('size', size)
        self.max_gb = check_range('max_gb', max_gb, 0, float('inf'))
        self.folder = folder
        self._fully_initialized = False
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
        # In arrays, which forked workers share: Python objects would be copied into each worker, page by page, as
        # their reference counts change.
        paths, sizes_hw, instances, counts, places = [], [], [], [], []
        for index in range(len(self.dataset)):
            info = self.dataset.get_data_info(index)
            paths.append(info['img_path'])
            places += [info['tile_xywh']] if 'tile_xywh' in info else []
            sizes_hw.append(annotated_hw(info))
            own = [
                (one['bbox'], one['bbox_label'], one.get('ignore_flag', 0), one.get('soft_label'))
                for one in info.get('instances') or []
            ]
            instances += own
            counts.append(len(own))
        boxes, labels, ignore, soft_labels = zip(*instances, strict=True) if instances else ((), (), (), ())
        shapes_hw = np.array([shrunk_hw(hw, self.size_hw) for hw in sizes_hw], np.int64).reshape(-1, 2)
        scales_wh = (shapes_hw / np.reshape(sizes_hw, (-1, 2)))[:, ::-1]
        boxes_xyxy = np.array(boxes, np.float32).reshape(-1, 4)
        boxes_xyxy *= np.repeat(np.tile(scales_wh, 2), counts, axis=0)
        labels = np.array(labels, np.int64)
        soft_labels = stack_soft_labels(soft_labels, labels)
        self._annotations = Annotations(boxes_xyxy, labels, np.array(ignore, bool), soft_labels)
        self._box_ends = np.cumsum([0, *counts])
        file = None
        if self.folder is not None:  # a file named by everything that its bytes depend on
            loaders = [repr(step) for step in self.dataset.pipeline.transforms]
            key = repr((paths, self.size_hw, self.max_gb, loaders, cv2.__version__, *places)).encode()
            file = Path(self.folder) / f'{hashlib.sha256(key).hexdigest()[:16]}.images'
        self._cache = cache = ImageCache(shapes_hw, self.max_gb * 1e9, paths, file)
        self._fully_initialized = True
        if self.max_gb:
            text = (
                f'the cache holds {cache.kept} of {len(self)} decoded images, {cache.kept_bytes / 1e9:.2f} of '
                f'{cache.all_bytes / 1e9:.2f} GB, in {self.folder or "memory"}'
            )
            if cache.kept < len(self):
                text += f'; the others are decoded each time. Raise max_gb (now {self.max_gb}) if you have the memory'
            print_log(text, logger='current')

    def __len__(self) -> int:
        return len(self._box_ends) - 1

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of an image, from the dataset inside."""
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> list[int]:
        """Return the labels of an image, for mmengine's ``ClassBalancedDataset``."""
        annotations = self._boxes(index)
        return annotations.labels[~annotations.ignore].tolist()

    def _boxes(self, index: int) -> Annotations:
        own = slice(self._box_ends[index], self._box_ends[index + 1])
        return self._annotations.moved(self._annotations.boxes_xyxy, own)

    def __getitem__(self, index: int) -> dict:
        """Return a sample: the image, read-only, and a copy of its boxes."""
        index = range(len(self))[index]
        image = self._cache.get(index)
        if image is None:
            loaded = self.dataset[index]
            index = loaded['sample_idx']  # another one, if an unusable image was skipped
            found_hw, expected_hw = loaded['img'].shape[:2], annotated_hw(loaded)
            if found_hw != expected_hw:
                raise ValueError(
                    f'image {loaded["img_path"]} is {found_hw} (height, width), its annotation has {expected_hw}: '
                    'correct the annotation'
                )
            image = shrink_image(loaded['img'], self.size_hw)
            self._cache.put(index, image)
            image.flags.writeable = False
        info, annotations = self.dataset.get_data_info(index), self._boxes(index)
        info.pop('instances', None)
        (height, width), (old_height, old_width) = image.shape[:2], annotated_hw(info)
        info.update(
            img=image,
            img_shape=(height, width),
            ori_shape=(old_height, old_width),
            scale_factor=(width / old_width, height / old_height),
            keep_ratio=True,
            gt_bboxes=as_boxes(annotations.boxes_xyxy),
            gt_bboxes_labels=annotations.labels.copy(),
            gt_ignore_flags=annotations.ignore.copy(),
        )
        if annotations.soft_labels is not None:
            info['gt_soft_labels'] = annotations.soft_labels.copy()
        return info


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
