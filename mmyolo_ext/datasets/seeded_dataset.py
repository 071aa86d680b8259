"""Samples that depend on (seed, epoch, index) alone."""

import hashlib
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from mmdet.datasets import MultiImageMixDataset
from torch.utils.data import Dataset

from mmyolo_ext.registry import DATASETS

from .shared_memory import one_batch

EPOCH, SEED, CLOSED = range(3)  # indices in the memory that the workers share


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
        ValueError: From :meth:`set_epoch` on negative numbers, from :meth:`close_mosaic` if no transform mixes images.
    """

    def __init__(self, dataset: dict | Dataset, pipeline: Sequence[dict] | None = None) -> None:
        if pipeline is not None:
            dataset = {'type': 'mmyolo_ext.MixDataset', 'dataset': dataset, 'pipeline': pipeline}
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._mixes = [(mix, *_mixing_transforms(mix)) for mix in _mix_datasets(self.dataset)]
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._skips_mixing = False  # in this process

    @property
    def metainfo(self) -> dict:
        """Metainfo of the dataset inside."""
        return self.dataset.metainfo

    @property
    def epoch(self) -> int:
        """Current epoch, from 0 on."""
        return int(self._shared[EPOCH])

    @property
    def seed(self) -> int:
        """Current seed."""
        return int(self._shared[SEED])

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
        if epoch < 0 or seed < 0:
            raise ValueError(f'epoch and seed must be integers from 0 on, got epoch {epoch} and seed {seed}')
        self._shared[EPOCH], self._shared[SEED] = epoch, seed

    def close_mosaic(self) -> None:
        """Skip all transforms that mix images from now on.

        They have ``mixes_images``, or ``get_indexes`` as those of mmdet do. A transform with a method ``stop_mixing``
        stays in the pipeline and is called without partners.
        """
        if not any(keys or stoppable for _, keys, stoppable in self._mixes):
            raise ValueError(
                'close_mosaic found no transform that mixes images (MosaicAffine, Mosaic, MixUp) in the training set: '
                'remove the hook that closes the mosaic from custom_hooks, or add a mosaic to the pipeline of '
                'SeededDataset or MixDataset'
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
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f'index {index} is out of range for a dataset of {length} samples')
        index %= length
        epoch, seed, closed = self._shared.tolist()
        if closed and not self._skips_mixing:
            for mix, keys, stoppable in self._mixes:
                mix.update_skip_type_keys([*(mix._skip_type_keys or ()), *keys])
                for transform in stoppable:
                    transform.stop_mixing()
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


def _mixing_transforms(mix: MultiImageMixDataset) -> tuple[list[str], list[object]]:
    """Return the type names of the mixing transforms to skip, as in the config, and the transforms to stop.

    A config in pure Python has classes as types, which ``update_skip_type_keys`` rejects: replace them by names in
    ``mix.pipeline_types``, in place.
    """
    mix.pipeline_types = [t if isinstance(t, str) else f'{t.__module__}.{t.__qualname__}' for t in mix.pipeline_types]
    mixing = [
        (transform, name)
        for transform, name in zip(mix.pipeline, mix.pipeline_types, strict=True)
        if getattr(transform, 'mixes_images', hasattr(transform, 'get_indexes'))
    ]
    stoppable = [transform for transform, _ in mixing if hasattr(transform, 'stop_mixing')]
    return [name for transform, name in mixing if not hasattr(transform, 'stop_mixing')], stoppable
