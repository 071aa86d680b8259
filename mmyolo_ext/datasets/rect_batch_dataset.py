"""Validation in rectangles: batches of images of similar aspect ratio, with little padding."""

from collections.abc import Sequence

import numpy as np
from mmengine.dataset import BaseDataset, Compose
from torch.utils.data import Dataset

from mmyolo_ext.datasets.transforms.functional import annotated_hw, check_range, check_size_hw, rectangle
from mmyolo_ext.registry import DATASETS


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
        pipeline: For mmdet's inference API and SAHI, which read the pipeline of the outermost dataset from the config
            and find its transforms by mmdet's names; samples come from the pipeline of the dataset inside.
        lazy_init: Read no annotation yet; :meth:`full_init` or the first sample does.

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
        pipeline: Sequence[dict] = (),
        lazy_init: bool = False,
    ) -> None:
        if isinstance(dataset, dict):
            dataset = DATASETS.build({**dataset, 'lazy_init': True} if lazy_init else dataset)
        self.dataset = dataset
        self.batch_size = check_range('batch_size', batch_size, 1, float('inf'))
        self.size_hw = check_size_hw('size', size)
        self.stride = check_range('stride', stride, 1, float('inf'))
        self.extra = check_range('extra', extra, 0, 1)
        self.allow_upscale = allow_upscale
        self._fully_initialized = False
        if not lazy_init:
            self.full_init()

    @property
    def metainfo(self) -> dict:
        """Metainfo of the dataset inside."""
        return self.dataset.metainfo

    @property
    def pipeline(self) -> Compose:
        """Transforms of the dataset inside."""
        return self.dataset.pipeline

    def full_init(self) -> None:
        """Read the size of each image and compute order and shapes, once."""
        if self._fully_initialized:
            return
        self.dataset.full_init()
        infos = (self.dataset.get_data_info(index) for index in range(len(self.dataset)))
        sides_hw = np.array([annotated_hw(info) for info in infos], dtype=np.float64).reshape(-1, 2)
        self.order = np.argsort(sides_hw[:, 0] / sides_hw[:, 1], kind='stable')
        batches = (self.order[i : i + self.batch_size] for i in range(0, len(self.order), self.batch_size))
        fit = self.size_hw, self.stride, self.extra, self.allow_upscale
        self.batch_shapes_hw = [rectangle(sides_hw[batch], *fit) for batch in batches]
        self._fully_initialized = True

    def __len__(self) -> int:
        self.full_init()
        return len(self.order)

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of a sample in sorted order, with ``batch_shape_hw`` (height, width)."""
        index = range(len(self))[index]
        info = self.dataset.get_data_info(int(self.order[index]))
        return {**info, 'sample_idx': index, 'batch_shape_hw': self.batch_shapes_hw[index // self.batch_size]}

    def __getitem__(self, index: int) -> dict:
        info = self.get_data_info(index)
        results = self.dataset.pipeline(info)
        if results is None:
            raise ValueError(f'the test pipeline returned None for {info["img_path"]}: no image may be skipped here')
        return results
