"""Several images in one sample, without copies."""

import copy
import functools
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

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        ours = [type(step).__module__.startswith('mmyolo_ext.') for step in self.pipeline]
        mixes = [hasattr(step, 'get_indexes') for step in self.pipeline]
        self._steps = list(zip(self.pipeline, self.pipeline_types, ours, mixes, strict=True))

    def __getitem__(self, index: int) -> dict:
        return self._sample(index, len(self._steps))

    def _sample(self, index: int, num_steps: int) -> dict:
        """Return the sample after the first ``num_steps`` steps of the pipeline."""
        results = self.dataset[index]
        for step, (transform, kind, ours, mixes) in enumerate(self._steps[:num_steps]):
            if self._skip_type_keys is not None and kind in self._skip_type_keys:
                continue
            if mixes:
                results = {**results, 'mix_results': self._partners(transform, step if ours else 0, ours)}
            results = self._apply(transform, results, ours)
            results.pop('mix_results', None)
        return results

    def _partners(self, transform: Callable, num_steps: int, ours: bool) -> list[dict]:
        # Transforms of ours read only the image and the boxes of a partner, which some datasets return faster.
        get = getattr(self.dataset, 'image_and_boxes', None) if ours else None
        get = get or self.dataset.__getitem__
        if num_steps:
            get = functools.partial(self._sample, num_steps=num_steps)
        for _ in range(self.max_refetch):
            indices = transform.get_indexes(self.dataset)
            indices = indices if isinstance(indices, Sequence) else [indices]
            partners = [get(index) for index in indices]
            if None not in partners:
                return partners
        raise RuntimeError(f'{type(transform).__name__} got no usable images in {self.max_refetch} attempts')

    def _apply(self, transform: Callable, results: dict, leaves_alone: bool) -> dict:
        for _ in range(self.max_refetch):
            applied = transform(dict(results) if leaves_alone else copy.deepcopy(results))
            if applied is not None:
                return applied
        raise RuntimeError(f'{type(transform).__name__} gave no result in {self.max_refetch} attempts')
