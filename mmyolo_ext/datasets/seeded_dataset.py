"""Samples that depend on (seed, epoch, index) alone."""

from collections.abc import Iterator, Sequence

import torch
from mmdet.datasets import MultiImageMixDataset
from torch.utils.data import Dataset

from mmyolo_ext.registry import DATASETS

from .batch_memory import one_batch
from .seeding import kept_generators, seed_generators

EPOCH, SEED, CLOSED = range(3)  # places in the memory that the workers share


@DATASETS.register_module()
class SeededDataset(Dataset):
    """Wraps the whole training set, outermost, and seeds every draw made for a sample, partners of a mosaic included.

    So 0 or 3 workers, 1 or 2 ranks, and a resumed run see the same bytes. The epoch, the seed and whether mosaic is
    closed lie in shared memory: a change reaches workers that live on between epochs, forked or spawned.

    Args:
        dataset: Config of the data set or the data set itself.
        pipeline: Transforms of a :class:`MixDataset` around it; none by default.

    Raises:
        ValueError: From :meth:`set_epoch` on negative numbers, from :meth:`close_mosaic` when nothing is to be closed.
    """

    def __init__(self, dataset: dict | Dataset, pipeline: Sequence[dict] | None = None) -> None:
        if pipeline is not None:
            dataset = {'type': 'mmyolo_ext.MixDataset', 'dataset': dataset, 'pipeline': pipeline}
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset
        self._mixes = [(mix, *_mixing_steps(mix)) for mix in _mix_datasets(self.dataset)]
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._skips_mixing = False  # in this process

    @property
    def metainfo(self) -> dict:
        return self.dataset.metainfo

    @property
    def epoch(self) -> int:
        return int(self._shared[EPOCH])

    @property
    def seed(self) -> int:
        return int(self._shared[SEED])

    @property
    def mosaic_closed(self) -> bool:
        return bool(self._shared[CLOSED])

    def full_init(self) -> None:
        self.dataset.full_init()

    def get_data_info(self, index: int) -> dict:
        return self.dataset.get_data_info(index)

    def __len__(self) -> int:
        return len(self.dataset)

    def set_epoch(self, epoch: int, seed: int) -> None:
        """Choose the samples to come. Call it before the loader starts the epoch, alike in every rank."""
        if epoch < 0 or seed < 0:
            raise ValueError(f'epoch and seed must be whole numbers from 0 on, got epoch {epoch} and seed {seed}')
        self._shared[EPOCH], self._shared[SEED] = epoch, seed

    def close_mosaic(self) -> None:
        """Skip from now on every transform that mixes pictures: those with ``mixes_images``, and the host's, which
        are known by their ``get_indexes``. One that does more than that has a ``stop_mixing``, and stays."""
        if not any(keys or stoppable for _, keys, stoppable in self._mixes):
            raise ValueError(
                'close_mosaic found nothing to close: no MixDataset or mmdet.MultiImageMixDataset in the training set '
                'holds a transform that mixes pictures (Mosaic, MixUp). Take the hook that closes mosaic out of '
                'custom_hooks, or put Mosaic into the pipeline'
            )
        self._shared[CLOSED] = 1

    def __getitem__(self, index: int) -> dict:
        with kept_generators():
            return self._sample(index)

    def __getitems__(self, indices: list[int]) -> list[dict]:
        """The samples of a batch, as PyTorch's loader asks for them."""
        with kept_generators(), one_batch(len(indices)):
            return [self._sample(index) for index in indices]

    def _sample(self, index: int) -> dict:
        length = len(self)
        if not -length <= index < length:
            raise IndexError(f'index {index} is out of a data set of {length} samples')
        index %= length
        shared = self._shared.tolist()
        if shared[CLOSED] and not self._skips_mixing:
            self._skip_mixing()
        seed_generators(shared[SEED], shared[EPOCH], index)
        return self.dataset[index]

    def _skip_mixing(self) -> None:
        for mix, keys, stoppable in self._mixes:
            mix.update_skip_type_keys([*(mix._skip_type_keys or ()), *keys])
            for transform in stoppable:
                transform.stop_mixing()
        self._skips_mixing = True


def _mix_datasets(dataset: Dataset) -> Iterator[MultiImageMixDataset]:
    """Every ``MultiImageMixDataset`` inside, through wrappers of one (``dataset``) or many (``datasets``)."""
    if isinstance(dataset, MultiImageMixDataset):
        yield dataset
    inner = [dataset.dataset] if hasattr(dataset, 'dataset') else getattr(dataset, 'datasets', [])
    for part in inner:
        yield from _mix_datasets(part)


def _mixing_steps(mix: MultiImageMixDataset) -> tuple[list[str], list[object]]:
    """The names under which ``mix`` skips its mixing transforms, as its config wrote them, scope or none, and those of
    its transforms that can stop mixing themselves.

    A config in pure Python names a transform by its class, which ``update_skip_type_keys`` refuses: such entries of
    ``mix.pipeline_types`` are replaced, in place, by the name of the class.
    """
    mix.pipeline_types = [t if isinstance(t, str) else f'{t.__module__}.{t.__qualname__}' for t in mix.pipeline_types]
    mixing = [
        (transform, name)
        for transform, name in zip(mix.pipeline, mix.pipeline_types, strict=True)
        if getattr(transform, 'mixes_images', hasattr(transform, 'get_indexes'))
    ]
    stoppable = [transform for transform, _ in mixing if hasattr(transform, 'stop_mixing')]
    return [name for transform, name in mixing if not hasattr(transform, 'stop_mixing')], stoppable
