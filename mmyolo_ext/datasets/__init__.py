"""Data sets and the pipeline of their pictures."""

from . import transforms
from .checked_coco import CheckedCocoDataset
from .rect_batch_dataset import RectBatchDataset
from .seeded_dataset import SeededDataset

__all__ = ['CheckedCocoDataset', 'RectBatchDataset', 'SeededDataset', 'transforms']
