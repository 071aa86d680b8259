"""Hooks around training, validation and test."""

from mmyolo_ext.engine.hooks.checkpoint import CheckpointHook, EarlyStoppingHook
from mmyolo_ext.engine.hooks.curves import CurvesHook
from mmyolo_ext.engine.hooks.ema import StepEMAHook
from mmyolo_ext.engine.hooks.evaluation import EagerEvaluationHook, FuseHook, TestTimeHook
from mmyolo_ext.engine.hooks.preflight import PreflightHook
from mmyolo_ext.engine.hooks.progress import ProgressHook
from mmyolo_ext.engine.hooks.recipe import AccumulateHook, CloseMosaicHook, SampleSeedHook
from mmyolo_ext.engine.hooks.report import ReportHook
from mmyolo_ext.engine.hooks.training_info import TrainingInfoHook

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
