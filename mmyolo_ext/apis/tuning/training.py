"""One training of a search: a process of its own, watched through the scalars that it logs."""

import json
import math
import os
import signal
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

LOG = 'train.log'
END = 60  # lines of the log in which a reason is looked for
PATIENCE = 15  # seconds that a process has to end itself
OUT_OF_MEMORY = ('out of memory', "can't allocate memory", 'Cannot allocate memory', 'std::bad_alloc')
DIVERGED = 'the loss is NaN or infinite'
NOT_FINITE = 'loss become infinite or NaN'  # of mmdet's CheckInvalidLossHook, whose error has no words


class Scores(NamedTuple):
    """What a training has logged so far.

    Attributes:
        by_step: the metric by epoch (by iteration, if the training counts those), first to last.
        others: names of all that validation reported.
        diverged: where the loss was not finite, in words; else empty.
    """

    by_step: dict[int, float]
    others: tuple[str, ...]
    diverged: str


class Training:
    """Runs ``command CONFIG --work-dir FOLDER --resume`` in a group of processes of its own.

    Args:
        command: what trains, such as ``[python, 'tools/train.py']``.
        config: config of the training.
        folder: its work dir; the log goes there too.
        environment: variables added to the present ones.
        keep_open: file descriptors that the process holds open as long as it lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        config: Path,
        folder: Path,
        environment: dict[str, str] | None = None,
        keep_open: Sequence[int] = (),
    ) -> None:
        self.folder = folder
        with (folder / LOG).open('a') as log:
            self._process = subprocess.Popen(
                [*command, str(config), '--work-dir', str(folder), '--resume'],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(environment or {})},
                start_new_session=True,  # Ctrl-C is for the search, which ends it; and its workers end with it
                pass_fds=tuple(keep_open),
            )

    def poll(self) -> int | None:
        """Its exit status, None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """End it and its workers, by force after some seconds."""
        for how in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, how)
            try:
                self._process.wait(PATIENCE)
                break
            except subprocess.TimeoutExpired:
                continue

    def reason(self) -> str:
        """Why it failed: the last error in its log, in one line."""
        lines = (self.folder / LOG).read_text(errors='replace').splitlines()[-END:]
        text = '\n'.join(lines)
        said = [line for line in lines if line.startswith('error: ')]
        raised = [line for line in lines if line.split(':')[0].endswith(('Error', 'Exception', 'Interrupt'))]
        if NOT_FINITE in text:
            return DIVERGED
        if any(words in text for words in OUT_OF_MEMORY):
            return f'out of memory: {(raised or said or [""])[-1]}'.rstrip(': ')
        if said or raised:
            return (said or raised)[-1].removeprefix('error: ')
        code = self.poll()
        if code is not None and code < 0:
            hint = ', perhaps for want of memory' if -code == signal.SIGKILL else ''
            return f'ended by {signal.Signals(-code).name}{hint}'
        return f'exit status {code}; ' + (lines[-1] if lines else 'its log is empty')


def read_scores(folder: Path, metric: str) -> Scores:
    """What a training in ``folder`` has logged, over all times it was resumed; an epoch that ran anew counts anew."""
    scores: dict[int, float] = {}
    others: dict[str, None] = {}
    diverged = ''
    for file in sorted(folder.glob('*/vis_data/scalars.json')):
        diverged = ''  # a resumed training starts before it
        for row in _rows(file):
            if 'loss' in row:
                if not math.isfinite(row['loss']):
                    diverged = diverged or f'the loss is {row["loss"]} in epoch {row.get("epoch", "?")}'
                continue
            others.update(dict.fromkeys(name for name in row if '/' in name))
            if math.isfinite(row.get(metric, math.nan)):
                scores[row['step']] = row[metric]
    return Scores(dict(sorted(scores.items())), tuple(others), diverged)


def _rows(file: Path) -> Iterator[dict]:
    """Of its lines, but not of one that is being written, whose dict has no end yet."""
    for line in file.read_text().splitlines():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(row, dict):
            yield row
