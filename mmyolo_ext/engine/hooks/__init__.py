"""Hooks around training, validation and test."""

from .checkpoint import CheckpointHook, EarlyStoppingHook
from .curves import CurvesHook
from .ema import StepEMAHook
from .evaluation import EagerEvaluationHook, FuseHook, TestTimeHook
from .preflight import LoadReportHook, PreflightHook
from .recipe import AccumulateHook, CloseMosaicHook, SampleSeedHook
from .training_info import DataWaitHook, LazyInfoHook, LossShareHook, ThroughputHook

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
