"""Darknet: its small backbone, and detectors described by its ``.cfg`` files."""

from .detector import DarknetCfg
from .tiny_darknet import TinyDarknet

__all__ = ['DarknetCfg', 'TinyDarknet']
