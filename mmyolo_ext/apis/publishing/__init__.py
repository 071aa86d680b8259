"""Make of a training's checkpoint what others can use: what ``tools/publish.py`` does."""

from .known_ap import Figures
from .publisher import Options, Published, publish

__all__ = ['Figures', 'Options', 'Published', 'publish']
