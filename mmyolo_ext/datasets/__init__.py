"""Datasets, their transforms, and the collate function."""

from . import transforms
from .cached_dataset import CachedDataset
from .checked_coco import CheckedCocoDataset
from .data_section import run_data_section
from .labelme import LabelmeDataset
from .mix_dataset import MixDataset
from .rect_batch_dataset import RectBatchDataset
from .seeded_dataset import SeededDataset
from .shared_memory import stack_inputs
from .sources import DataSource, find_dataset
from .tiling import TiledDataset
from .voc import CheckedVOCDataset
from .yolo_txt import YOLOTxtDataset

__all__ = [
    'CachedDataset',
    'CheckedCocoDataset',
    'CheckedVOCDataset',
    'DataSource',
    'LabelmeDataset',
    'MixDataset',
    'RectBatchDataset',
    'SeededDataset',
    'TiledDataset',
    'YOLOTxtDataset',
    'find_dataset',
    'run_data_section',
    'stack_inputs',
    'transforms',
]
