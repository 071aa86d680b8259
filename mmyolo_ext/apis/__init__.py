"""Use from Python: read a config as the tools do, detect on pictures."""

from .config import load_config
from .inference import Detections, Detector

__all__ = ['Detections', 'Detector', 'load_config']
