"""How tools end: exit code and last line."""

import os
import signal

import pytest

from mmyolo_ext.cli.common import tool
from mmyolo_ext.engine.step_guard import NonFiniteError
from mmyolo_ext.engine.stopping import StopTraining


def raiser(error: BaseException):
    def main() -> None:
        raise error

    return main


@pytest.fixture
def ended(monkeypatch, capfd):
    """Exit code and last line of a tool on a rank."""

    def run(main, rank: int = 0, left: str = '') -> tuple[int, str]:
        monkeypatch.setenv('RANK', str(rank))
        monkeypatch.delenv('MMYOLO_EXT_DEBUG', raising=False)
        monkeypatch.setattr('mmyolo_ext.cli.common.SECONDS_FOR_THE_FIRST', 0)
        with pytest.raises(SystemExit) as end:
            tool(main, left=left)()
        return end.value.code, capfd.readouterr().err.strip()

    return run


@pytest.mark.parametrize(
    ('error', 'code', 'first', 'second'),
    [
        (StopTraining(143, 'Stopped.\nSaved a.pth'), 143, 'Stopped. Saved a.pth', ''),
        (StopTraining(130, 'Interrupted'), 130, 'Interrupted', ''),
        (StopTraining(1, 'the disk is full'), 1, 'the disk is full', 'process 1: the disk is full'),
        (NonFiniteError('loss is nan'), 1, 'loss is nan', ''),
        (ValueError('no such file'), 2, 'error: no such file', 'error (process 1): no such file'),
        (KeyboardInterrupt(), 130, 'Interrupted; half is left', ''),
    ],
)
def test_exit_codes_and_who_says_why(ended, error, code, first, second):
    assert ended(raiser(error), left='half is left') == (code, first)
    assert ended(raiser(error), rank=1) == (code, second)


def test_sigterm_outside_of_a_training_ends_in_one_line(ended):
    before = signal.getsignal(signal.SIGTERM)
    code, line = ended(lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert (code, line) == (143, 'Stopped by SIGTERM')
    assert signal.getsignal(signal.SIGTERM) is before


def test_faults_of_ours_keep_their_traceback():
    with pytest.raises(KeyError):
        tool(raiser(KeyError('a')))()


def test_debugging_shows_all_tracebacks(monkeypatch):
    monkeypatch.setenv('MMYOLO_EXT_DEBUG', '1')
    with pytest.raises(ValueError, match='wrong'):
        tool(raiser(ValueError('wrong')))()


def test_an_uncaught_stop_still_gives_the_exit_code():
    # Python ends without a traceback and with the code of a SystemExit
    assert isinstance(StopTraining(143, 'text'), SystemExit) and StopTraining(143, 'text').code == 143
