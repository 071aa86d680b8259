"""Hooks around training, validation and test."""

from .checkpoint import CheckpointHook, EarlyStoppingHook
from .curves import CurvesHook
from .ema import StepEMAHook
from .evaluation import EagerEvaluationHook, FuseHook, TestTimeHook
from .preflight import PreflightHook
from .progress import ProgressHook
from .recipe import AccumulateHook, CloseMosaicHook, SampleSeedHook
from .report import ReportHook
from .training_info import TrainingInfoHook

__all__ = [
    'AccumulateHook',
    'CheckpointHook',
    'CloseMosaicHook',
    'CurvesHook',
    'EagerEvaluationHook',
    'EarlyStoppingHook',
    'FuseHook',
    'PreflightHook',
    'ProgressHook',
    'ReportHook',
    'SampleSeedHook',
    'StepEMAHook',
    'TestTimeHook',
    'TrainingInfoHook',
]
