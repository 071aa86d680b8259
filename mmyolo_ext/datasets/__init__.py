"""Data sets and the pipeline of their pictures."""

from . import transforms
from .cached_dataset import CachedDataset
from .checked_coco import CheckedCocoDataset
from .collate import stack_inputs
from .mix_dataset import MixDataset
from .rect_batch_dataset import RectBatchDataset
from .seeded_dataset import SeededDataset

__all__ = [
    'CachedDataset',
    'CheckedCocoDataset',
    'MixDataset',
    'RectBatchDataset',
    'SeededDataset',
    'stack_inputs',
    'transforms',
]
