"""The Python API: read a config as the tools do, detect on images and videos."""

from importlib import import_module

NAMES = {'Detections': 'results', 'Detector': 'inference', 'load_config': 'config'}

__all__ = ['Detections', 'Detector', 'load_config']


def __getattr__(name: str) -> object:
    """Import what is asked for, so that an ONNX file is run without importing torch."""
    if name in NAMES:
        return getattr(import_module(f'{__name__}.{NAMES[name]}'), name)
    raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
