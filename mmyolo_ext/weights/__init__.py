"""Checkpoints of other tools: read, given our names, and written back."""

from .convert import Converted, convert
from .detect import FORMATS, detect
from .network import Network, describe
from .to_ultralytics import model_yaml, to_ultralytics

__all__ = ['FORMATS', 'Converted', 'Network', 'convert', 'describe', 'detect', 'model_yaml', 'to_ultralytics']
