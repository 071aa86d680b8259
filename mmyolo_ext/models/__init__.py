"""Components of detectors: backbones, necks, heads, assigners, box coders, losses, and the detectors."""

from . import backbones as backbones
from . import darknet as darknet
from . import data_preprocessor as data_preprocessor
from . import detectors as detectors
from . import heads as heads
from . import losses as losses
from . import necks as necks
from . import task_modules as task_modules
