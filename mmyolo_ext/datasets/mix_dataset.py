"""Several pictures in one sample, without copies."""

import copy
from collections.abc import Callable, Sequence

from mmdet.datasets import MultiImageMixDataset

from mmyolo_ext.registry import DATASETS


@DATASETS.register_module()
class MixDataset(MultiImageMixDataset):
    """mmdet's ``MultiImageMixDataset``, which copies every picture at each of its steps, without those copies.

    Differs from it on purpose: the samples of ``dataset`` are taken to be the caller's own, and transforms of ours,
    which leave their input alone, get it as it is. Transforms of others get a copy, as there. Arguments are the same.
    """

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self._leaves_alone = [type(step).__module__.startswith('mmyolo_ext.') for step in self.pipeline]

    def __getitem__(self, index: int) -> dict:
        results = self.dataset[index]
        steps = zip(self.pipeline, self.pipeline_types, self._leaves_alone, strict=True)
        for transform, kind, leaves_alone in steps:
            if self._skip_type_keys is not None and kind in self._skip_type_keys:
                continue
            if hasattr(transform, 'get_indexes'):
                results = {**results, 'mix_results': self._partners(transform)}
            results = self._apply(transform, results, leaves_alone)
            results.pop('mix_results', None)
        return results

    def _partners(self, transform: Callable) -> list[dict]:
        for _ in range(self.max_refetch):
            indices = transform.get_indexes(self.dataset)
            indices = indices if isinstance(indices, Sequence) else [indices]
            partners = [self.dataset[index] for index in indices]
            if None not in partners:
                return partners
        raise RuntimeError(f'{type(transform).__name__} got no usable pictures in {self.max_refetch} attempts')

    def _apply(self, transform: Callable, results: dict, leaves_alone: bool) -> dict:
        for _ in range(self.max_refetch):
            applied = transform(dict(results) if leaves_alone else copy.deepcopy(results))
            if applied is not None:
                return applied
        raise RuntimeError(f'{type(transform).__name__} gave no result in {self.max_refetch} attempts')
