"""The pipeline of the pictures: each transform draws its parameters, then applies functions of :mod:`.functional`."""

from .hsv import HSVJitter
from .letterbox import Letterbox
from .load_image import LoadImage
from .mixup import MixUp
from .mosaic import Mosaic
from .random_affine import RandomAffine

__all__ = ['HSVJitter', 'Letterbox', 'LoadImage', 'MixUp', 'Mosaic', 'RandomAffine']
