"""The pipeline of the pictures: each transform draws its parameters, then applies functions of
:mod:`.functional`, :mod:`.tiles` and :mod:`.colour`."""

from .box_copy_paste import BoxCopyPaste
from .flip import HorizontalFlip
from .hsv import HSVJitter
from .letterbox import Letterbox
from .load_image import LoadImage
from .mixup import MixUp
from .mosaic import Mosaic
from .mosaic_affine import MosaicAffine
from .pack import PackInputs
from .random_affine import RandomAffine

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
]
