"""What a search knows, kept by Optuna in a journal in its folder; what is in it can be gone on with.

A *run* is one set of values from its start to its end, however often it was interrupted; Optuna counts each start as a
trial of its own, which is FAILED if it was interrupted. A run that failed by itself is PRUNED to Optuna, so that its
sampler keeps away from such values.
"""

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mmyolo_ext.apis.tuning.space import Parameter
from mmyolo_ext.export.packages import need

if TYPE_CHECKING:
    import optuna

JOURNAL, IDENTITY = 'study.journal', 'study.json'
TABLE, RUN_FOLDER = 'trials.csv', 'trial_'
KEPT = 'config default_hooks.checkpoint.'
RUN, SECONDS, REASON = 'run', 'seconds', 'failed'  # of a trial's attributes
STATES = ('done', 'pruned', 'failed', 'running', 'to go on')
SCALARS = (str, int, float, bool, type(None))  # that Optuna keeps as they are


class Run(NamedTuple):
    """One set of values and what became of it.

    Attributes:
        number: 0 is the config as it stands.
        state: one of ``STATES``.
        score: the metric; of a pruned run the best that it had reached; None if it had none.
        values: by key.
        curve: the metric by epoch.
        seconds: that it took, without those of interrupted starts.
        reason: why it failed, else empty.
    """

    number: int
    state: str
    score: float | None
    values: dict[str, Any]
    curve: dict[int, float]
    seconds: float
    reason: str


def need_optuna() -> 'optuna':
    """Optuna, quiet.

    Raises:
        ValueError: it is not installed; with the command that does.
    """
    package = need('optuna', "pip install 'optuna>=4'")
    package.logging.set_verbosity(package.logging.WARNING)
    return package


def check_identity(folder: Path, identity: dict[str, Any]) -> None:
    """Keep what a search is of, or see that the folder's search is of the same.

    A search that has come to nothing yet, no score and no checkpoint, is replaced.

    Raises:
        ValueError: naming what differs.
    """
    file = folder / IDENTITY
    now = json.loads(json.dumps(identity, default=str))
    differing = differences(json.loads(file.read_text()), now) if file.exists() else ''
    if differing and ((folder / TABLE).exists() or any(folder.glob(f'{RUN_FOLDER}*/*.pth'))):
        raise ValueError(f'{folder} holds another search: {differing}; take another --work-dir for this one')
    if differing:
        (folder / JOURNAL).unlink(missing_ok=True)
        for run in folder.glob(f'{RUN_FOLDER}*'):
            shutil.rmtree(run)
    part = file.with_suffix('.part')
    part.write_text(json.dumps(now, indent=1))
    os.replace(part, file)


def differences(before: dict[str, str], now: dict[str, str]) -> str:
    """What differs between what searches are of, in words; how many checkpoints are kept is no matter."""
    names = [name for name in {**before, **now} if before.get(name, '-') != now.get(name, '-')]
    names = [name for name in names if not name.startswith(KEPT)]
    told = [f'{name} was {before.get(name, "-")}, now {now.get(name, "-")}' for name in names[:3]]
    return '; '.join(told) + (f' and {len(names) - 3} more' if len(names) > 3 else '')


def open_study(folder: Path, direction: str) -> 'optuna.Study':
    """The search in ``folder``, a new one if there is none. The folder must be ours by :func:`.locked`."""
    optuna = need_optuna()
    from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock

    file = folder / JOURNAL
    _mend(file)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(file), JournalFileOpenLock(str(file))))
    return optuna.create_study(storage=storage, study_name='tune', direction=direction, load_if_exists=True)


def _mend(file: Path) -> None:
    """Undo what a process that was killed while writing leaves: its lock, and a line without an end."""
    file.with_name(f'{file.name}.lock').unlink(missing_ok=True)
    if file.exists():
        content = file.read_bytes()
        if not content.endswith(b'\n'):
            with file.open('r+b') as stream:
                stream.truncate(content.rfind(b'\n') + 1)


def take_up_interrupted(study: 'optuna.Study') -> list[int]:
    """Queue the runs again that were under way when the search ended; their numbers."""
    optuna = need_optuna()
    waiting = {trial.user_attrs.get(RUN) for trial in _in_state(study, 'WAITING')}
    numbers = []
    for trial in _in_state(study, 'RUNNING'):
        number = trial.user_attrs.get(RUN)
        if number is not None and number not in waiting:
            study.enqueue_trial(trial.params, user_attrs={RUN: number})
            numbers.append(number)
        study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
    return sorted({*numbers, *waiting} - {None})


def runs_of(study: 'optuna.Study', space: dict[str, Parameter]) -> list[Run]:
    """Every run that has started, by number."""
    runs = {}
    for trial in study.get_trials(deepcopy=False):
        number = trial.user_attrs.get(RUN)
        if number is not None and trial.params.keys() >= space.keys():
            runs[number] = _run(trial, number, space, study.direction.name == 'MAXIMIZE')
    return [runs[number] for number in sorted(runs)]


def best_of(runs: list[Run], greater: bool) -> Run | None:
    """The run with the best score of those that were trained to their end; None if none was."""
    done = [run for run in runs if run.state == 'done']
    return (max if greater else min)(done, key=lambda run: run.score) if done else None


def _run(trial: 'optuna.trial.FrozenTrial', number: int, space: dict[str, Parameter], greater: bool) -> Run:
    attributes, curve = trial.user_attrs, dict(trial.intermediate_values)
    reason = attributes.get(REASON, '')
    names = {'COMPLETE': 'done', 'PRUNED': 'failed' if reason else 'pruned', 'RUNNING': 'running'}
    # to Optuna, the score of a trial that was pruned is its last
    score = trial.value if trial.state.name == 'COMPLETE' else None
    if score is None and not reason and curve:
        score = (max if greater else min)(curve.values())
    values = {key: decode(parameter, trial.params[key]) for key, parameter in space.items()}
    state = names.get(trial.state.name, 'to go on')
    return Run(number, state, score, values, curve, attributes.get(SECONDS, 0.0), reason)


def _in_state(study: 'optuna.Study', name: str) -> list:
    states = (getattr(need_optuna().trial.TrialState, name),)
    return study.get_trials(deepcopy=False, states=states)


def distribution(parameter: Parameter) -> 'optuna.distributions.BaseDistribution':
    """The parameter in Optuna's terms."""
    distributions = need_optuna().distributions
    if parameter.choices:
        return distributions.CategoricalDistribution([encode(parameter, choice) for choice in parameter.choices])
    if parameter.whole:
        return distributions.IntDistribution(
            parameter.low, parameter.high, log=parameter.log, step=int(parameter.step or 1)
        )
    return distributions.FloatDistribution(parameter.low, parameter.high, log=parameter.log, step=parameter.step)


def encode(parameter: Parameter, value: Any) -> Any:
    """A value as Optuna keeps it: lists and dicts among choices as their text."""
    return value if not parameter.choices or isinstance(value, SCALARS) else repr(value)


def decode(parameter: Parameter, kept: Any) -> Any:
    """The value that Optuna keeps so."""
    if not parameter.choices:
        return parameter.rounded(kept)
    return next(choice for choice in parameter.choices if encode(parameter, choice) == kept)
