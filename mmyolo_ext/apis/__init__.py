"""The Python API: read a config as the tools do, detect objects on images."""

from .config import load_config
from .inference import Detections, Detector

__all__ = ['Detections', 'Detector', 'load_config']
