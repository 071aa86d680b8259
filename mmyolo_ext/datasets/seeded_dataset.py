"""Samples that depend on (seed, epoch, index) alone."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmdet.datasets import MultiImageMixDataset
from torch.utils.data import Dataset

from mmyolo_ext.datasets.shared_memory import one_batch
from mmyolo_ext.registry import DATASETS

CLOSED = 2  # index in the memory that the workers share, after epoch and seed


@contextmanager
def kept_generators() -> Iterator[None]:
    """Restore the states of ``random``, ``numpy.random`` and torch's CPU generator on exit.

    It takes 0.1 ms: enter it once a batch.
    """
    python_state, numpy_state, torch_state = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(python_state)
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)


def seed_generators(seed: int, *key: int) -> None:
    """Seed ``random``, ``numpy.random`` and torch's CPU generator by a hash of (seed, key).

    Different keys give independent streams, unlike a sum of seed and key.

    Args:
        seed: Integer from 0 on.
        key: Integers from 0 on.
    """
    words = hashlib.blake2b(repr((seed, *key)).encode(), digest_size=40).digest()
    random.seed(int.from_bytes(words[:16], 'little'))
    np.random.seed(np.frombuffer(words, '<u4', 4, offset=16))
    # torch.manual_seed would also seed the accelerators, and initialise them in a worker
    torch.default_generator.manual_seed(int.from_bytes(words[32:], 'little', signed=True))


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Wrap the whole training set and seed everything random in a sample, partners of a mosaic included.

    Samples do not depend on the number of workers or ranks, or on a resume. Epoch, seed and closing of the mosaic are
    in shared memory: persistent workers see a change.

    Args:
        dataset: Config of the dataset, or the dataset.
        pipeline: Transforms of a :class:`MixDataset` around it; none by default.

    Raises:
        ValueError: From :meth:`close_mosaic`, if no transform mixes images.
    """

    def __init__(self, dataset: dict | Dataset, pipeline: Sequence[dict] | None = None) -> None:
        if pipeline is not None:
            dataset = {'type': 'mmyolo_ext.MixDataset', 'dataset': dataset, 'pipeline': pipeline}
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._mixes = list(_mix_datasets(self.dataset))
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._skips_mixing = False  # in this process

    @property
    def metainfo(self) -> dict:
        """Metainfo of the dataset inside."""
        return self.dataset.metainfo

    @property
    def mosaic_closed(self) -> bool:
        """Whether images are no longer mixed."""
        return bool(self._shared[CLOSED])

    def full_init(self) -> None:
        """Initialise the dataset inside."""
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict:
        """Return the annotation of an image."""
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int, seed: int) -> None:
        """Set epoch and seed; call it before the loader starts the epoch, with the same numbers on all ranks."""
        self._shared[0], self._shared[1] = epoch, seed

    def close_mosaic(self) -> None:
        """Skip all transforms that mix images from now on.

        They have ``mixes_images``, or ``get_indexes`` as those of mmdet do. A transform with a method ``stop_mixing``
        stays in the pipeline and is called without partners.
        """
        if not self.mosaic_closed and not any(_mixes_images(step) for mix in self._mixes for step in mix.pipeline):
            raise ValueError(
                'close_mosaic found no transform that mixes images (MosaicAffine, Mosaic, MixUp) in the training set: '
                'add one, or remove the hook that closes the mosaic from custom_hooks'
            )
        self._shared[CLOSED] = 1

    def __getitem__(self, index: int) -> dict:
        with kept_generators():
            return self._sample(index)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """Return the samples of a batch, for PyTorch's loader."""
        with kept_generators(), one_batch(len(indices)):
            return [self._sample(index) for index in indices]

    def _sample(self, index: int) -> dict:
        index = range(len(self))[index]
        epoch, seed, closed = self._shared.tolist()
        if closed and not self._skips_mixing:
            for mix in self._mixes:
                for transform in list(filter(_mixes_images, mix.pipeline)):
                    if hasattr(transform, 'stop_mixing'):
                        transform.stop_mixing()
                    else:
                        step = mix.pipeline.index(transform)
                        del mix.pipeline[step], mix.pipeline_types[step]
            self._skips_mixing = True
        seed_generators(seed, epoch, index)
        return self.dataset[index]


def _mix_datasets(dataset: Dataset) -> Iterator[MultiImageMixDataset]:
    """Yield each ``MultiImageMixDataset`` inside, through wrappers of one (``dataset``) or many (``datasets``)."""
    if isinstance(dataset, MultiImageMixDataset):
        yield dataset
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
    for part in inner:
        yield from _mix_datasets(part)


def _mixes_images(transform: object) -> bool:
    return getattr(transform, 'mixes_images', hasattr(transform, 'get_indexes'))
