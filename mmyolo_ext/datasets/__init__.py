"""Datasets, their transforms, and the collate function."""

from . import transforms
from .cached_dataset import CachedDataset
from .checked_coco import CheckedCocoDataset
from .mix_dataset import MixDataset
from .rect_batch_dataset import RectBatchDataset
from .seeded_dataset import SeededDataset
from .shared_memory import stack_inputs

__all__ = [
    'CachedDataset',
    'CheckedCocoDataset',
    'MixDataset',
    'RectBatchDataset',
    'SeededDataset',
    'stack_inputs',
    'transforms',
]
