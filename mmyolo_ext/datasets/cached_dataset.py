"""A data set whose pictures are decoded once."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
from mmengine.dataset import BaseDataset
from mmengine.logging import print_log
from torch.utils.data import Dataset

from mmyolo_ext.registry import DATASETS

from .annotation_arrays import AnnotationArrays
from .picture_cache import PictureCache
from .transforms.annotations import as_boxes
from .transforms.arguments import check_range, check_size_hw
from .transforms.functional import shrink_image, shrunk_hw

LOADING = ('LoadImage', 'LoadImageFromFile', 'LoadAnnotations')


@DATASETS.register_module()
class CachedDataset(Dataset):
    """Keeps the decoded pictures of a data set in memory that its workers share, and its boxes in arrays.

    A sample is the same with and without the cache: ``img``, shrunk into ``size`` where it is larger (by area, which
    no later warp could make up for) and never enlarged, and its boxes with it. ``img`` cannot be written to.

    Pictures are kept as they come, up to ``max_gb``; the log says how many of them fit. Of a larger data set the
    others are decoded each time. Each process of a distributed training has its own cache; with a ``folder`` they, and
    later trainings, share one on disk, which is read through the system's memory.

    Args:
        dataset: Config of a data set, or the data set, an mmengine ``BaseDataset`` whose pipeline loads and does
            nothing else; ``LoadAnnotations`` may be left out of it.
        size: (height, width) the pictures are to fit into, or one side of a square; None leaves them as they are.
        max_gb: Bound of the cache in GB (10^9 bytes); 0 keeps nothing.
        folder: Where to keep the pictures on disk.

    Raises:
        ValueError: On an argument out of its range, a data set of another kind, or a pipeline that does more.
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
                f'the pipeline inside CachedDataset may hold {LOADING}, for what it gives is kept; got {steps}: put '
                'the other transforms into the pipeline of the MixDataset around it'
            )
        self.size_hw = None if size is None else check_size_hw('size', size)
        self.max_gb = check_range('max_gb', max_gb, 0, float('inf'))
        self.folder = folder
        self._fully_initialized = False
        if self.dataset._fully_initialized:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the annotations and plan the cache, once."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        self._arrays = AnnotationArrays(self.dataset.get_data_info(i) for i in range(len(self.dataset)))
        infos = [self._arrays.info(i) for i in range(len(self._arrays))]
        originals_hw = [_sides_hw(info) for info in infos]
        shapes_hw = np.array([shrunk_hw(hw, self.size_hw) for hw in originals_hw], np.int64).reshape(-1, 2)
        self._arrays.scale((shapes_hw / np.reshape(originals_hw, (-1, 2)))[:, ::-1])
        self._cache = PictureCache(shapes_hw, self.max_gb * 1e9, *self._file([info['img_path'] for info in infos]))
        self._length = len(infos)
        self._fully_initialized = True
        if self.max_gb:
            self._log()

    def _file(self, paths: list[str]) -> tuple[list[str], Path | None]:
        """The pictures' paths and the file of the cache, named after all that its bytes depend on."""
        if self.folder is None:
            return [], None
        loaders = [repr(step) for step in self.dataset.pipeline.transforms]
        key = repr((paths, self.size_hw, self.max_gb, loaders, cv2.__version__)).encode()
        return paths, Path(self.folder) / f'{hashlib.sha256(key).hexdigest()[:16]}.pictures'

    def _log(self) -> None:
        cache, total = self._cache, len(self)
        where = 'memory' if self.folder is None else self.folder
        if cache.kept == total:
            text = f'all {total} decoded pictures fit into the cache: {cache.kept_bytes / 1e9:.2f} GB in {where}'
        else:
            text = (
                f'the cache holds {cache.kept} of {total} decoded pictures, {cache.kept_bytes / 1e9:.2f} of '
                f'{cache.all_bytes / 1e9:.2f} GB, in {where}; the others are decoded each time. Raise max_gb of '
                f'CachedDataset (now {self.max_gb}) if there is room'
            )
        print_log(text, logger='current')

    def __len__(self) -> int:
        self.full_init()
        return self._length

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)

    def get_cat_ids(self, index: int) -> list[int]:
        """The labels of the boxes of a picture, as mmengine's ``ClassBalancedDataset`` asks for them."""
        self.full_init()
        annotations = self._arrays.annotations(index)
        return annotations.labels[~annotations.ignore].tolist()

    def __getitem__(self, index: int) -> dict:
        index, image = self._picture(index)
        info, (height, width) = self._arrays.info(index), image.shape[:2]
        old_height, old_width = _sides_hw(info)
        return {
            **info,
            'ori_shape': (old_height, old_width),
            'scale_factor': (width / old_width, height / old_height),
            'keep_ratio': True,
            **self._shown(index, image),
        }

    def picture_and_boxes(self, index: int) -> dict:
        """A sample without what its annotation says beside the boxes: all that mixing asks of a partner."""
        return self._shown(*self._picture(index))

    def _picture(self, index: int) -> tuple[int, np.ndarray]:
        """The picture of ``index``, or of the sample that takes its place; and whose it is."""
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f'index {index} is out of a data set of {length} samples')
        index %= length
        image = self._cache.get(index)
        if image is None:
            loaded = self.dataset[index]
            index = loaded['sample_idx']  # another one, if a broken picture was skipped
            image = self._shrunk(loaded)
            self._cache.put(index, image)
            image.flags.writeable = False
        return index, image

    def _shown(self, index: int, image: np.ndarray) -> dict:
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

    def _shrunk(self, loaded: dict) -> np.ndarray:
        found_hw, noted_hw = loaded['img'].shape[:2], _sides_hw(loaded)
        if found_hw != noted_hw:
            raise ValueError(
                f'picture {loaded["img_path"]} is {found_hw} (height, width), its annotation says {noted_hw}: correct '
                'the annotation'
            )
        return shrink_image(loaded['img'], self.size_hw)


def _sides_hw(info: dict) -> tuple[int, int]:
    if not info.get('height') or not info.get('width'):
        raise ValueError(f'CachedDataset needs height and width of {info.get("img_path")} in its annotation')
    return info['height'], info['width']
