"""YOLO for MMDetection: importing this package registers its parts.

The registries of :mod:`mmyolo_ext.registry` import the modules that hold the parts when the first of them is asked
for, so ``import mmyolo_ext`` costs what ``import mmengine`` costs.
"""

import os
import warnings

from . import ops
from .version import __version__

__all__ = ['__version__']

# a small file can hold an image that fills the memory; OpenCV reads the limit when it is imported
os.environ.setdefault('OPENCV_IO_MAX_IMAGE_PIXELS', str(2**28))
ops.install()

try:
    from . import registry as registry
    from .checkpoint.config_text import install_yaml_loader

    install_yaml_loader()
except (
    ImportError,
    OSError,
) as error:  # OSError: a system library is missing; the doctor must be able to start on a broken stack
    warnings.warn(
        f'mmyolo_ext cannot register its parts: {error}. `python -m mmyolo_ext.cli.doctor` names the cure.',
        stacklevel=2,
    )
