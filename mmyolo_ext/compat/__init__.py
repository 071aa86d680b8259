"""The OpenMMLab stack made to work as installed.

:func:`install` is called when ``mmyolo_ext`` is imported, before anything of mmcv or mmdet. It imports neither torch
nor mmcv, so that the doctor starts on a broken stack. Nothing here imports another part of mmyolo_ext, nor mmdet.
"""

from .stand_in import install, ops_status

__all__ = ['install', 'ops_status']
