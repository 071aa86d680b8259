"""Validation in rectangles: pictures of like shape share a batch and its padding."""

from collections.abc import Sequence

import numpy as np
from mmengine.dataset import BaseDataset
from torch.utils.data import Dataset

from mmyolo_ext.registry import DATASETS

from .transforms.arguments import check_range, check_size_hw
from .transforms.functional import rectangle


@DATASETS.register_module()
class RectBatchDataset(Dataset):
    """Sorts a data set by aspect ratio and tells each sample the shape of its batch, for :class:`Letterbox`.

    Pictures are sorted by height / width, stably, and cut into runs of ``batch_size``. The shape of a run is the
    least rectangle that holds all its pictures once each is fitted into ``size``, its sides s raised to
    ceil(s / stride + extra) strides. It goes into ``results['batch_shape_hw']`` ahead of the inner data set's own
    pipeline. The shape of sample i depends on i alone, so any sampler gives the same pixels; batches are free of
    further padding when the loader reads in order with the same ``batch_size`` (over W ranks, MMEngine deals samples
    out in turn: then give ``batch_size`` times W).

    Args:
        dataset: Config of a data set in test mode, or the data set, an mmengine ``BaseDataset`` whose
            ``get_data_info`` gives ``height`` and ``width``.
        batch_size: That of the loader.
        size: (height, width) the pictures are fitted into, or one side of a square; that of ``Letterbox``.
        stride: Sides of a batch are multiples of it: the network's largest stride.
        extra: In strides; the usual half gives every batch a little margin.
        allow_upscale: As in ``Letterbox``.

    Raises:
        ValueError: On an argument out of its range, a data set of another kind, or a sample without its sides.
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
                raise ValueError(f'{name} must be a whole number from 1 on, got {value!r}')
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
        return self.dataset.metainfo

    def full_init(self) -> None:
        """Read every picture's sides and settle order and shapes, once."""
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
            raise ValueError(f'RectBatchDataset needs height and width of {info.get("img_path", index)}')
        return info['height'], info['width']

    def __len__(self) -> int:
        return len(self.order)

    def get_data_info(self, index: int) -> dict:
        """The annotation of the sample in sorted order, ``batch_shape_hw`` (height, width) included."""
        if not -len(self) <= index < len(self):
            raise IndexError(f'index {index} is out of a data set of {len(self)} samples')
        index %= len(self)
        info = self.dataset.get_data_info(int(self.order[index]))
        return {**info, 'sample_idx': index, 'batch_shape_hw': self.batch_shapes_hw[index // self.batch_size]}

    def __getitem__(self, index: int) -> dict:
        info = self.get_data_info(index)
        results = self.dataset.pipeline(info)
        if results is None:
            raise ValueError(f'the test pipeline gave nothing for {info["img_path"]}: no picture may be left out here')
        return results
