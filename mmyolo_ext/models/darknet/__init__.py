"""Darknet: its small backbone, and detectors described by its ``.cfg`` files."""

from .tiny_darknet import TinyDarknet

__all__ = ['TinyDarknet']
