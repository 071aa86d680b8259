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
        ours = [type(step).__module__.startswith('mmyolo_ext.') for step in self.pipeline]
        mixes = [hasattr(step, 'get_indexes') for step in self.pipeline]
        self._steps = list(zip(self.pipeline, self.pipeline_types, ours, mixes, strict=True))

    def __getitem__(self, index: int) -> dict:
        results = self.dataset[index]
        for transform, kind, ours, mixes in self._steps:
            if self._skip_type_keys is not None and kind in self._skip_type_keys:
                continue
            if mixes:
                results = {**results, 'mix_results': self._partners(transform, ours)}
            results = self._apply(transform, results, ours)
            results.pop('mix_results', None)
        return results

    def _partners(self, transform: Callable, ours: bool) -> list[dict]:
        # Transforms of ours ask nothing of a partner but its picture and boxes, which some data sets give sooner.
        get = getattr(self.dataset, 'picture_and_boxes', None) if ours else None
        get = get or self.dataset.__getitem__
        for _ in range(self.max_refetch):
            indices = transform.get_indexes(self.dataset)
            indices = indices if isinstance(indices, Sequence) else [indices]
            partners = [get(index) for index in indices]
            if None not in partners:
                return partners
        raise RuntimeError(f'{type(transform).__name__} got no usable pictures in {self.max_refetch} attempts')

    def _apply(self, transform: Callable, results: dict, leaves_alone: bool) -> dict:
        for _ in range(self.max_refetch):
            applied = transform(dict(results) if leaves_alone else copy.deepcopy(results))
            if applied is not None:
                return applied
        raise RuntimeError(f'{type(transform).__name__} gave no result in {self.max_refetch} attempts')
