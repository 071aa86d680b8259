"""The search itself: values are asked of Optuna, tried by trainings side by side, and told to it."""

import math
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from mmengine.config import Config

from mmyolo_ext.apis.tuning import memory
from mmyolo_ext.apis.tuning.checkpoints import keep_the_best, make_resumable
from mmyolo_ext.apis.tuning.plan import Effort, Plan, trial_config
from mmyolo_ext.apis.tuning.training import DIVERGED, Scores, Training, read_scores
from mmyolo_ext.apis.tuning.words import ended

if TYPE_CHECKING:
    import optuna

LOOK = 1.0  # seconds between two looks at the trainings
AT_RANDOM = 5  # trials before the sampler models what it has seen, the config as it stands included
SEED_STEP = 100_003  # a prime, so that seeds of neighbouring searches do not meet


class _Active(NamedTuple):
    trial: 'optuna.Trial'
    number: int
    training: Training
    slot: int
    began: float
    seen: set[int]


class Search:
    """A search in a folder that is locked.

    Args:
        plan: what it is of.
        effort: how much it may take.
        folder: its work dir.
        command: what trains a config, see :class:`.Training`.
        lock: descriptor that trainings keep open, or None.
        after_each: called after each run that ended.
    """

    def __init__(
        self,
        plan: Plan,
        effort: Effort,
        folder: Path,
        command: Sequence[str],
        lock: int | None = None,
        after_each: Callable[[list[memory.Run]], None] = lambda runs: None,
    ) -> None:
        self.plan, self.effort, self.folder = plan, effort, folder
        self._command, self._lock, self._after_each = command, lock, after_each
        self._distributions = {key: memory.distribution(parameter) for key, parameter in plan.space.items()}
        self._active: list[_Active] = []
        self.study = memory.open_study(folder, 'maximize' if plan.greater else 'minimize')
        self.study.pruner = make_pruner(effort.pruner, plan)

    def runs(self) -> list[memory.Run]:
        """Every run that has started."""
        return memory.runs_of(self.study, self.plan.space)

    def go(self) -> bool:
        """Go on until all trials have ended; False if the time was over before.

        Raises:
            ValueError: the config as it stands cannot be trained, or validation does not report the metric.
            KeyboardInterrupt: with its trainings ended, to be gone on with.
        """
        self._begin()
        end = time.monotonic() + self.effort.hours * 3600 if self.effort.hours is not None else None
        try:
            while self._fill() or self._active:
                if end is not None and time.monotonic() > end:
                    return False
                time.sleep(LOOK)
                for active in list(self._active):
                    self._look(active)
            return True
        finally:
            for active in self._active:
                active.training.stop()
            self._active = []

    def _begin(self) -> None:
        going_on = memory.take_up_interrupted(self.study)
        if going_on:
            print(f'interrupted before and taken up again: trial {", ".join(map(str, going_on))}', flush=True)
        if not self.study.get_trials(deepcopy=False):
            present = {key: memory.encode(one, one.present) for key, one in self.plan.space.items()}
            self.study.enqueue_trial(present, user_attrs={memory.RUN: 0})

    def _fill(self) -> bool:
        """Start trainings while there is room; whether any was."""
        started = False
        while len(self._active) < self.effort.jobs:
            runs = self.runs()
            waiting = [run for run in runs if run.state == 'to go on']
            if len(runs) - len(waiting) >= self.effort.trials:
                break
            self._start(max((run.number for run in runs), default=-1) + 1)
            started = True
        return started

    def _start(self, number: int) -> None:
        # by its number, so that a search that was interrupted tries what it would have tried
        self.study.sampler = make_sampler(self.plan.seed * SEED_STEP + number)
        trial = self.study.ask(self._distributions)
        number = trial.user_attrs.get(memory.RUN, number)
        trial.set_user_attr(memory.RUN, number)
        folder = self.folder_of(number)
        folder.mkdir(parents=True, exist_ok=True)
        values = {key: memory.decode(one, trial.params[key]) for key, one in self.plan.space.items()}
        config = trial_config(self.plan, values, folder)
        make_resumable(folder, Config.fromfile(config), read_scores(folder, self.plan.metric).by_step)
        slot = min({*range(self.effort.jobs)} - {active.slot for active in self._active})
        keep_open = () if self._lock is None else (self._lock,)
        training = Training(self._command, config, folder, environment(slot, self.effort.jobs), keep_open)
        self._active.append(_Active(trial, number, training, slot, time.monotonic(), set()))

    def folder_of(self, number: int) -> Path:
        """Work dir of a run."""
        return self.folder / f'{memory.RUN_FOLDER}{number:03}'

    def _look(self, active: _Active) -> None:
        """Report what is new, and end the run if it has ended or should."""
        status = active.training.poll()  # before the scores are read, so that none is missed
        scores = read_scores(active.training.folder, self.plan.metric)
        if scores.others and self.plan.metric not in scores.others:
            self._refuse_metric(scores)
        for step in sorted(scores.by_step.keys() - active.seen):
            active.trial.report(scores.by_step[step], step)
            active.seen.add(step)
        if scores.diverged:
            self._end(active, scores, failed=scores.diverged)
        elif status is not None:
            failed = active.training.reason() if status else '' if scores.by_step else 'validation gave no number'
            self._end(active, scores, failed=failed)
        elif self._is_hopeless(active, scores):
            self._end(active, scores, pruned=True)

    def _is_hopeless(self, active: _Active, scores: Scores) -> bool:
        """As the pruner says; not of the config as it stands, nor when nothing is left to be saved."""
        last = max(scores.by_step, default=0)
        return active.number > 0 and 0 < last < self.plan.length and active.trial.should_prune()

    def _end(self, active: _Active, scores: Scores, failed: str = '', pruned: bool = False) -> None:
        active.training.stop()
        if failed and active.number == 0 and failed not in (scores.diverged, DIVERGED):
            raise ValueError(
                f'the config as it stands, trial 0, cannot be trained: {failed}; its log: {active.training.folder}/'
                'train.log'
            )
        self._active.remove(active)
        trial = active.trial
        trial.set_user_attr(memory.SECONDS, time.monotonic() - active.began)
        if failed or pruned:
            if failed:
                trial.set_user_attr(memory.REASON, failed)
            self.study.tell(trial, state=memory.need_optuna().trial.TrialState.PRUNED)
        else:
            self.study.tell(trial, (max if self.plan.greater else min)(scores.by_step.values()))
        runs = self.runs()
        keep_the_best({self.folder_of(run.number): run for run in runs}, memory.best_of(runs, self.plan.greater))
        print(ended(runs, active.number, self.plan, self.effort), flush=True)
        self._after_each(runs)

    def _refuse_metric(self, scores: Scores) -> None:
        raise ValueError(
            f'validation reports no {self.plan.metric!r}: --metric must be one of {", ".join(scores.others)}; take '
            'another --work-dir, for this one is of a search by that metric'
        )


def make_sampler(seed: int) -> 'optuna.samplers.BaseSampler':
    """Tree-structured Parzen estimators (Bergstra et al., 2011), after some draws at random."""
    return memory.need_optuna().samplers.TPESampler(seed=seed, n_startup_trials=AT_RANDOM, constant_liar=True)


def make_pruner(name: str, plan: Plan) -> 'optuna.pruners.BasePruner':
    """What ends trainings that lag behind."""
    pruners = memory.need_optuna().pruners
    first = max(plan.length // plan.validations, 1)
    if name == 'median':
        # the first validation of a short training tells little but how fast its warm-up was
        return pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=max(math.ceil(plan.length / 3), 2 * first))
    if name == 'hyperband':
        return pruners.HyperbandPruner(min_resource=first, max_resource=plan.length, reduction_factor=3)
    return pruners.NopPruner()


def environment(slot: int, jobs: int) -> dict[str, str]:
    """Variables that share the machine between the trainings: a GPU each, or the cores of the CPU."""
    if jobs == 1:
        return {}
    count = torch.cuda.device_count()
    if count:
        named = os.environ.get('CUDA_VISIBLE_DEVICES')
        devices = named.split(',') if named else [str(number) for number in range(count)]
        return {'CUDA_VISIBLE_DEVICES': devices[slot % count]}
    return {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS') or str(max((os.cpu_count() or 1) // jobs, 1))}


def training_command(script: Path, amp: bool) -> list[str]:
    """How ``tools/train.py`` is started by the present Python."""
    return [sys.executable, str(script), *(['--amp'] if amp else [])]
