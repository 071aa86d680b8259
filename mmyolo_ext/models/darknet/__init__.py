"""Detectors described by Darknet's ``.cfg`` files."""

from .detector import DarknetCfg

__all__ = ['DarknetCfg']
