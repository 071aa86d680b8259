"""The OpenMMLab stack made to work as installed."""

import importlib.machinery
import importlib.util
import sys
import types


class _Ext(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith('__'):
            raise AttributeError(name)

        def missing(*args, **kwargs):
            raise NotImplementedError(name)
        return missing


def install() -> None:
    """Supply ``mmcv._ext`` where mmcv was installed without its compiled ops."""
    if importlib.util.find_spec('mmcv') is None or 'mmcv._ext' in sys.modules:
        return
    if importlib.util.find_spec('mmcv._ext') is None:
        module = _Ext('mmcv._ext')
        module.__spec__ = importlib.machinery.ModuleSpec('mmcv._ext', None)
        sys.modules['mmcv._ext'] = module
