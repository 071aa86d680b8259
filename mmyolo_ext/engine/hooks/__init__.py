"""What happens around the training steps: one hook a file."""

from .accumulate import AccumulateHook
from .channels_last import ChannelsLastHook
from .close_mosaic import CloseMosaicHook
from .compile import CompileHook
from .curves import CurvesHook
from .data_wait import DataWaitHook
from .fuse import FuseHook
from .lazy_info import LazyInfoHook
from .load_report import LoadReportHook
from .loss_share import LossShareHook
from .preflight import PreflightHook
from .sample_seed import SampleSeedHook
from .step_ema import StepEMAHook
from .test_time import TestTimeHook
from .throughput import ThroughputHook

__all__ = [
    'AccumulateHook',
    'ChannelsLastHook',
    'CloseMosaicHook',
    'CompileHook',
    'CurvesHook',
    'DataWaitHook',
    'FuseHook',
    'LazyInfoHook',
    'LoadReportHook',
    'LossShareHook',
    'PreflightHook',
    'SampleSeedHook',
    'StepEMAHook',
    'TestTimeHook',
    'ThroughputHook',
]
