"""Detectors described by Darknet's ``.cfg`` files."""

from mmyolo_ext.models.darknet.detector import DarknetCfg

__all__ = ['DarknetCfg']
