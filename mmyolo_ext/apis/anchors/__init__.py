"""Priors that fit the boxes of a data set: what ``tools/anchors.py`` does."""

from .boxes import BoxSizes, box_sizes
from .fitness import Rule, Scores, score
from .search import fit_priors

__all__ = ['BoxSizes', 'Rule', 'Scores', 'box_sizes', 'fit_priors', 'score']
