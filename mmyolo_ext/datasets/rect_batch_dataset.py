"""Validation in rectangles: batches of images of similar aspect ratio, with little padding."""

from collections.abc import Sequence

import numpy as np
from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from mmyolo_ext.registry import DATASETS

from .transforms.functional import check_range, check_size_hw, rectangle


@DATASETS.register_module()
class RectBatchDataset(Dataset):
    """Sort a dataset by aspect ratio and set the shape of each batch, for :class:`Letterbox`.

    Images are sorted by height / width and split into groups of ``batch_size``. The shape of a group is the smallest
    rectangle that holds all its images, fitted into ``size``, with each side s rounded up to ceil(s / stride + extra)
    strides. It is passed as ``results['batch_shape_hw']`` to the pipeline of the dataset inside. The shape of a sample
    depends on its index alone, so that any sampler gives the same pixels; batches need no further padding if the
    loader reads in order with the same ``batch_size`` (MMEngine distributes samples over W ranks in turn: then use
    ``batch_size`` times W).

    Args:
        dataset: Config of a dataset in test mode, or the dataset: an mmengine ``BaseDataset`` whose
            ``get_data_info`` returns ``height`` and ``width``.
        batch_size: That of the loader.
        size: (height, width) that images are fitted into, or the side of a square; that of ``Letterbox``.
        stride: Sides of a batch are multiples of it: the network's largest stride.
        extra: Margin in strides.
        allow_upscale: As in ``Letterbox``.

    Raises:
        ValueError: On an argument out of its range, a dataset of another type, or a sample without its size.
    """

    def __init__(
        self,
        dataset: dict | BaseDataset,
        batch_size: int,
        size: int | Sequence[int],
        stride: int = 32,
        extra: float = 0.5,
        allow_upscale: bool = True,
    ) -> None:
        for name, value in (('batch_size', batch_size), ('stride', stride)):
            if not isinstance(value, int) or value < 1:
                raise ValueError(f'{name} must be an integer above 0, got {value!r}')
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        if not isinstance(self.dataset, BaseDataset):
            raise ValueError(f'RectBatchDataset wraps an mmengine BaseDataset, got {type(self.dataset).__name__}')
        self.batch_size = batch_size
        self.size_hw = check_size_hw('size', size)
        self.stride = stride
        self.extra = check_range('extra', extra, 0, 1)
        self.allow_upscale = allow_upscale
        self._fully_initialized = False
        self.full_init()

    @property
    def metainfo(self) -> dict:
        """Metainfo of the dataset inside."""
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read the size of each image and compute order and shapes, once."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        sides_hw = np.array([self._sides_hw(i) for i in range(len(self.dataset))], dtype=np.float64).reshape(-1, 2)
        self.order = np.argsort(sides_hw[:, 0] / sides_hw[:, 1], kind='stable')
        starts = range(0, len(self.order), self.batch_size)
        self.batch_shapes_hw = [
            rectangle(
                sides_hw[self.order[i : i + self.batch_size]],
                self.size_hw,
                self.stride,
                self.extra,
                self.allow_upscale,
            )
            for i in starts
        ]
        self._fully_initialized = True

    def _sides_hw(self, index: int) -> tuple[float, float]:
        info = self.dataset.get_data_info(index)
        if not info.get('height') or not info.get('width'):
            raise ValueError(
                f'RectBatchDataset needs height and width in the annotation of {info.get("img_path", index)}'
            )
        return info['height'], info['width']

    def __len__(self) -> int:
        return len(self.order)

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of a sample in sorted order, with ``batch_shape_hw`` (height, width)."""
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index} is out of range for a dataset of {len(self)} samples')
        index %= len(self)
        info = self.dataset.get_data_info(int(self.order[index]))
        return {**info, 'sample_idx': index, 'batch_shape_hw': self.batch_shapes_hw[index // self.batch_size]}

    def __getitem__(self, index: int) -> dict:
        info = self.get_data_info(index)
        results = self.dataset.pipeline(info)
        if results is None:
            raise ValueError(
                f'the test pipeline returned None for {info["img_path"]}, but no image may be skipped here'
            )
        return results
