"""Transforms: each draws its parameters, then applies pure functions of :mod:`.functional` and :mod:`.tiles`."""

from mmyolo_ext.datasets.transforms.box_copy_paste import BoxCopyPaste
from mmyolo_ext.datasets.transforms.colour import HSVJitter
from mmyolo_ext.datasets.transforms.geometry import HorizontalFlip, Letterbox, RandomAffine, Resize
from mmyolo_ext.datasets.transforms.load_and_pack import LoadImage, PackInputs
from mmyolo_ext.datasets.transforms.mosaic import MixUp, Mosaic, MosaicAffine

__all__ = [
    'BoxCopyPaste',
    'HSVJitter',
    'HorizontalFlip',
    'Letterbox',
    'LoadImage',
    'MixUp',
    'Mosaic',
    'MosaicAffine',
    'PackInputs',
    'RandomAffine',
    'Resize',
]
