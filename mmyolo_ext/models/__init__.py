"""Components of detectors: backbones, necks, heads, assigners, box coders, losses, and the detectors."""

from mmyolo_ext.models import backbones as backbones
from mmyolo_ext.models import darknet as darknet
from mmyolo_ext.models import data_preprocessor as data_preprocessor
from mmyolo_ext.models import detectors as detectors
from mmyolo_ext.models import heads as heads
from mmyolo_ext.models import losses as losses
from mmyolo_ext.models import necks as necks
from mmyolo_ext.models import task_modules as task_modules
