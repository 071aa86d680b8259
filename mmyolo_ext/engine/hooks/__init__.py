"""What happens around the training steps: one hook a file."""

from .accumulate import AccumulateHook
from .checkpoint import CheckpointHook
from .close_mosaic import CloseMosaicHook
from .curves import CurvesHook
from .data_wait import DataWaitHook
from .eager_evaluation import EagerEvaluationHook
from .early_stopping import EarlyStoppingHook
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
    'CheckpointHook',
    'CloseMosaicHook',
    'CurvesHook',
    'DataWaitHook',
    'EagerEvaluationHook',
    'EarlyStoppingHook',
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
