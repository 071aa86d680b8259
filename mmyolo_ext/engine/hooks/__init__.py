"""What happens around the training steps: one hook a file."""

from .accumulate import AccumulateHook
from .channels_last import ChannelsLastHook
from .close_mosaic import CloseMosaicHook
from .curves import CurvesHook
from .load_report import LoadReportHook
from .loss_share import LossShareHook
from .preflight import PreflightHook
from .sample_seed import SampleSeedHook
from .step_ema import StepEMAHook

__all__ = [
    'AccumulateHook',
    'ChannelsLastHook',
    'CloseMosaicHook',
    'CurvesHook',
    'LoadReportHook',
    'LossShareHook',
    'PreflightHook',
    'SampleSeedHook',
    'StepEMAHook',
]
