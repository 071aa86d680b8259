"""Rates and momentum over a training, in closed form."""

from .warmup import WarmupCosineLR, WarmupLinearLR, WarmupMomentum

__all__ = ['WarmupCosineLR', 'WarmupLinearLR', 'WarmupMomentum']
