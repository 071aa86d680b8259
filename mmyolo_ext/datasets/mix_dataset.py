"""Several images in one sample, without copies."""

import copy
from collections.abc import Callable, Sequence

from mmdet.datasets import MultiImageMixDataset

from mmyolo_ext.registry import DATASETS


@DATASETS.register_module()
class MixDataset(MultiImageMixDataset):
    """mmdet's ``MultiImageMixDataset``, without its copy of every image at each step.

    Differences on purpose: the samples of ``dataset`` belong to the caller, and a transform of this package, which
    does not change its input, gets them as they are (others get a copy); and a partner of a transform of this package
    has passed the steps before it, so that after ``MosaicAffine`` a ``MixUp`` blends two finished mosaics.
    Arguments are the same.
    """

    def __getitem__(self, index: int) -> dict:
        return self._sample(index, len(self.pipeline))

    def _sample(self, index: int, num_steps: int) -> dict:
        """Return the sample after the first ``num_steps`` steps of the pipeline."""
        results = self.dataset[index]
        for step, transform in enumerate(self.pipeline[:num_steps]):
            if self._skip_type_keys is not None and self.pipeline_types[step] in self._skip_type_keys:
                continue
            ours = type(transform).__module__.startswith('mmyolo_ext.')
            if hasattr(transform, 'get_indexes'):
                results = {**results, 'mix_results': self._partners(transform, step if ours else 0)}
            results = self._apply(transform, results, ours)
            results.pop('mix_results', None)
        return results

    def _partners(self, transform: Callable, num_steps: int) -> list[dict]:
        for _ in range(self.max_refetch):
            indices = transform.get_indexes(self.dataset)
            indices = indices if isinstance(indices, Sequence) else [indices]
            partners = [self._sample(index, num_steps) for index in indices]
            if None not in partners:
                return partners
        raise RuntimeError(f'{type(transform).__name__} got no usable images in {self.max_refetch} attempts')

    def _apply(self, transform: Callable, results: dict, leaves_alone: bool) -> dict:
        for _ in range(self.max_refetch):
            applied = transform(dict(results) if leaves_alone else copy.deepcopy(results))
            if applied is not None:
                return applied
        raise RuntimeError(f'{type(transform).__name__} gave no result in {self.max_refetch} attempts')
