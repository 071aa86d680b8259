"""Transforms: each draws its parameters, then applies pure functions of :mod:`.functional` and :mod:`.tiles`."""

from .box_copy_paste import BoxCopyPaste
from .colour import HSVJitter
from .geometry import HorizontalFlip, Letterbox, RandomAffine, Resize
from .load_and_pack import LoadImage, PackInputs
from .mosaic import MixUp, Mosaic, MosaicAffine

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
