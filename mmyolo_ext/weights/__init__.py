"""Checkpoints of other tools: read, given our names, and written back."""

from .convert import Converted, convert
from .detect import FORMATS, detect
from .network import Network, describe
from .reader import install_reader, read_weights
from .to_ultralytics import model_yaml, to_ultralytics

__all__ = [
    'FORMATS',
    'Converted',
    'Network',
    'convert',
    'describe',
    'detect',
    'install_reader',
    'model_yaml',
    'read_weights',
    'to_ultralytics',
]
