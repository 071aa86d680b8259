"""The version of mmyolo_ext, read by setup.py and written into checkpoints."""

__version__ = '0.2.0'
