"""How much each parameter matters to the score."""

import math
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from scipy.stats import spearmanr

from mmyolo_ext.apis.tuning.memory import Run, distribution, encode, need_optuna
from mmyolo_ext.apis.tuning.space import Parameter

LEAST_TRIALS = 10  # of fewer, a figure would be noise


class Importance(NamedTuple):
    """By key, from 0 to 1, 1 in sum.

    Attributes:
        shares: by key.
        meaning: of the numbers, in words.
        title: with the number of trials that they come from.
    """

    shares: dict[str, float]
    meaning: str
    title: str


def importance_of(runs: list[Run], space: dict[str, Parameter], greater: bool) -> Importance | None:
    """By functional ANOVA (Hutter et al., 2014), as Optuna fits it with scikit-learn; without that, by correlation.

    What is explained is the rank of a trial: without the pruned ones, which are the bad ones, what made them bad would
    not show, and their scores are of other epochs. None if fewer than 10 trials have a score, or if one score is all.
    """
    ranked = by_rank(runs, greater)
    if len(ranked) < LEAST_TRIALS or len({run.score for run in ranked}) == 1:
        return None
    title = f'importance to the score, from {len(ranked)} trials'
    if not find_spec('sklearn'):
        return Importance(correlations(ranked, space), 'share of the correlations with the rank', title)
    optuna = need_optuna()
    study = optuna.create_study(direction='maximize')
    distributions = {key: distribution(parameter) for key, parameter in space.items()}
    for rank, run in enumerate(ranked):
        params = {key: encode(space[key], value) for key, value in run.values.items()}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=rank))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    shares = optuna.importance.get_param_importances(study, evaluator=evaluator)
    return Importance(dict(shares), 'share of the variance of ranks (fANOVA)', title)


def correlations(ranked: list[Run], space: dict[str, Parameter]) -> dict[str, float]:
    """Of each parameter with the rank, without its sign, in shares of their sum: Spearman's; of choices, eta."""
    ranks = np.arange(len(ranked), dtype=float)
    found = {}
    for key, parameter in space.items():
        values = [encode(parameter, run.values[key]) for run in ranked]
        if len(set(values)) == 1:
            found[key] = 0.0
        elif parameter.choices:  # eta: the root of the share of the variance that lies between the groups
            groups = [ranks[[value == choice for value in values]] for choice in set(values)]
            between = sum(len(group) * (group.mean() - ranks.mean()) ** 2 for group in groups)
            found[key] = math.sqrt(between / ((ranks - ranks.mean()) ** 2).sum())
        else:
            found[key] = abs(float(spearmanr(values, ranks).statistic))
    return {key: value / max(sum(found.values()), 1e-12) for key, value in found.items()}


def by_rank(runs: list[Run], greater: bool) -> list[Run]:
    """The worst first: pruned ones by how long they lasted, then by their last score; then the others by theirs."""
    sign = 1 if greater else -1

    def key(run: Run) -> tuple:
        last = max(run.curve, default=0)
        return (True, 0, sign * run.score) if run.state == 'done' else (False, last, sign * run.curve[last])

    return sorted((run for run in runs if run.state == 'done' or run.state == 'pruned' and run.curve), key=key)
