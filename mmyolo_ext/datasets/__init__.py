"""Datasets, their transforms, and the collate function."""

from importlib import import_module

from mmyolo_ext.deferred import RARE_IN_MMDET, deferred

with deferred(*RARE_IN_MMDET):
    for _part in ('datasets', 'models', 'evaluation', 'visualization'):
        import_module(f'mmdet.{_part}')

from mmyolo_ext.datasets import transforms
from mmyolo_ext.datasets.cached_dataset import CachedDataset
from mmyolo_ext.datasets.checked_coco import CheckedCocoDataset
from mmyolo_ext.datasets.data_section import run_data_section
from mmyolo_ext.datasets.labelme import LabelmeDataset
from mmyolo_ext.datasets.mix_dataset import MixDataset
from mmyolo_ext.datasets.rect_batch_dataset import RectBatchDataset
from mmyolo_ext.datasets.seeded_dataset import SeededDataset
from mmyolo_ext.datasets.shared_memory import stack_inputs
from mmyolo_ext.datasets.sources import DataSource, find_dataset
from mmyolo_ext.datasets.tiling import TiledDataset
from mmyolo_ext.datasets.voc import CheckedVOCDataset
from mmyolo_ext.datasets.yolo_txt import YOLOTxtDataset

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
