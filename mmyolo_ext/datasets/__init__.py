"""Data sets and the pipeline of their pictures."""

from . import transforms
from .seeded_dataset import SeededDataset

__all__ = ['SeededDataset', 'transforms']
