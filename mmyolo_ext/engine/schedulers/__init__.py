"""Rates and momentum over a training, in closed form."""

from .warmup import WarmupLinearLR, WarmupMomentum

__all__ = ['WarmupLinearLR', 'WarmupMomentum']
