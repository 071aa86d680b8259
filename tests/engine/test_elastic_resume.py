"""An elastic training, whose number of processes changes, resumes from the end of an epoch."""

import os
import signal

import pytest
from mmengine.hooks import Hook
from toy_runner import RECIPE_HOOKS, toy_runner

from mmyolo_ext.engine.runner import ELASTIC, Runner
from mmyolo_ext.engine.stopping import StopTraining


class Stop(Hook):
    """Ask for the end of the training after some iterations, and note where it began."""

    def __init__(self, iteration: int | None = None) -> None:
        self.iteration = iteration
        self.began_at = None

    def before_train_iter(self, runner, *args, **kwargs) -> None:
        self.began_at = runner.iter if self.began_at is None else self.began_at

    def after_train_iter(self, runner, *args, **kwargs) -> None:
        if runner.iter + 1 == self.iteration:
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def interrupted(tmp_path, monkeypatch):
    """Stop after 12 iterations, five an epoch, as two processes with batches of one would have."""
    facts = Runner.facts
    with monkeypatch.context() as patch:
        patch.setattr(Runner, 'facts', lambda runner: {**facts(runner), 'world_size': 2, 'batch_size': 1})
        with pytest.raises(StopTraining):
            toy_runner(tmp_path, hooks=[*RECIPE_HOOKS, Stop(12)]).train()
    assert (tmp_path / 'epoch_2.pth').exists() and (tmp_path / 'iter_12.pth').exists()
    return tmp_path


def test_with_a_fixed_number_of_processes_the_middle_of_an_epoch_is_refused(interrupted):
    with pytest.raises(ValueError, match='inside an epoch'):
        toy_runner(interrupted, hooks=RECIPE_HOOKS, resume=True).train()


def test_an_elastic_training_resumes_from_the_end_of_the_epoch_before(interrupted, monkeypatch):
    monkeypatch.setenv(ELASTIC, '1')
    stop = Stop()
    toy_runner(interrupted, hooks=[*RECIPE_HOOKS, stop], resume=True).train()
    assert stop.began_at == 10
    assert (interrupted / 'epoch_4.pth').exists()
    # Set aside, not deleted.
    assert not (interrupted / 'iter_12.pth').exists() and list(interrupted.glob('*/iter_12.pth'))
