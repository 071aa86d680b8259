"""Show how far a run is, on a terminal and in files that other tools read."""

import json
import math
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook, LoggerHook
from mmengine.runner import Runner

from mmyolo_ext.engine.console import Display
from mmyolo_ext.engine.hooks.checkpoint import save_best_score
from mmyolo_ext.engine.stopping import StopTraining
from mmyolo_ext.registry import HOOKS

STATUS, METRICS = 'status.json', 'metrics.jsonl'
STATUS_SECONDS = 2.0  # between two writes of the status
MEANS = ('loss', 'time', 'grad_norm')  # names of which the log shows means over its window


@HOOKS.register_module()
class ProgressHook(Hook):
    """Show progress bars on a terminal, and write ``status.json`` and ``metrics.jsonl`` into the work dir.

    Rank 0 only. ``status.json`` is replaced at once, so that a reader never finds half of it: ``state`` is
    ``'training'``, ``'validating'``, ``'finished'``, ``'stopped'`` or ``'failed'``. ``metrics.jsonl`` gets one line
    with each line of the training log and each validation; ``validation`` and ``best`` of the status are the last of
    these, and the best by ``save_best``. A file that cannot be written is one warning.

    Args:
        bars: Whether to show bars if standard output is a terminal.
    """

    priority = 'VERY_LOW'  # after LoggerHook, whose numbers it repeats

    def __init__(self, bars: bool = True) -> None:
        self.bars = bars
        self.display: Display | None = None
        self._folder: Path | None = None  # of the files; None outside of training or after a failed write
        self._written, self._latest = 0.0, {}
        self._validation: dict = {}  # row of the last validation
        self._best: tuple[dict, float] = {}, -math.inf  # row of the best validation, and its score

    @master_only
    def before_train(self, runner: Runner) -> None:
        self._folder, self._latest = Path(runner.work_dir), {}
        self._start = (time.monotonic(), runner.iter)
        first = runner.iter if getattr(runner, 'resumed', False) else 0
        self._guarded(runner, self._keep_rows, runner, lambda row: row['iter'] <= first)
        self._write_status(runner, 'training')

    @master_only
    def before_train_epoch(self, runner: Runner) -> None:
        length = len(runner.train_dataloader)
        self._show(runner, f'Epoch {runner.epoch + 1}/{runner.max_epochs}', length, runner.iter % length)

    @master_only
    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: Mapping | None = None
    ) -> None:
        done = batch_idx + 1
        intervals = [hook.interval for hook in runner.hooks if isinstance(hook, LoggerHook)]
        if done == len(runner.train_dataloader) or any(done % interval == 0 for interval in intervals):
            self._latest = latest(runner)
            row = {'split': 'train', 'epoch': runner.epoch + 1, 'iter': runner.iter + 1, **self._latest}
            self._guarded(runner, self._append, row)
        if time.monotonic() - self._written >= STATUS_SECONDS:
            self._write_status(runner, 'training', runner.iter + 1)
        if self.display:
            self.display.update(done, note(self._latest, self._eta(runner, runner.iter + 1)))

    @master_only
    def before_val_epoch(self, runner: Runner) -> None:
        self._write_status(runner, 'validating')
        self._show(runner, 'Validation', len(runner.val_dataloader))

    @master_only
    def before_test_epoch(self, runner: Runner) -> None:
        self._show(runner, 'Test', len(runner.test_dataloader))

    @master_only
    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: object = None, outputs: object = None
    ) -> None:
        if self.display:
            self.display.update(batch_idx + 1)

    after_test_iter = after_val_iter

    @master_only
    def after_val_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        if self._folder:
            if self._validation.get('iter') == runner.iter:  # a resumed training repeats it
                repeated = {'split': 'val', **self._validation}
                self._guarded(runner, self._keep_rows, runner, lambda row: row != repeated)
            row = {'split': 'val', 'epoch': runner.epoch, 'iter': runner.iter, **numbers(metrics or {})}
            self._note_validation(runner, row)
            self._guarded(runner, self._append, row)
            self._write_status(runner, 'training')
        else:
            self.close()

    @master_only
    def after_test_epoch(self, runner: Runner, metrics: dict[str, float] | None = None) -> None:
        self.close()

    @contextmanager
    def watch(self, runner: Runner) -> Iterator[None]:
        """Write how a training ended, and remove the bars."""
        state, error = 'finished', None
        try:
            yield
        except (StopTraining, KeyboardInterrupt):
            state = 'stopped'
            raise
        except BaseException as raised:
            state, error = 'failed', f'{type(raised).__name__}: {raised}'
            raise
        finally:
            self.close()
            if is_main_process():
                self._write_status(runner, state, error=error)
            self._folder = None

    def close(self) -> None:
        """Remove the bars from the terminal."""
        if self.display:
            self.display.close()
            self.display = None

    def _show(self, runner: Runner, text: str, total: int, done: int = 0) -> None:
        if self.bars and self.display is None:
            self.display = Display.on_terminal(runner.logger)
        if self.display:
            self.display.begin(text, total, done)

    def _eta(self, runner: Runner, iteration: int) -> float | None:
        started, first = self._start
        if iteration <= first:
            return None
        return (time.monotonic() - started) / (iteration - first) * (runner.max_iters - iteration)

    def _write_status(
        self, runner: Runner, state: str, iteration: int | None = None, error: str | None = None
    ) -> None:
        if self._folder is None:
            return
        iteration = runner.iter if iteration is None else iteration
        eta = self._eta(runner, iteration)
        status = {
            'state': state,
            'epoch': min(runner.epoch + (state == 'training'), runner.max_epochs),
            'max_epochs': runner.max_epochs,
            'iter': iteration,
            'max_iters': runner.max_iters,
            'eta_seconds': None if eta is None else round(eta, 1),
            'updated': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'pid': os.getpid(),
            'metrics': self._latest,
            'validation': self._validation,
            'best': self._best[0],
            **({'error': error} if error else {}),
        }
        self._written = time.monotonic()
        self._guarded(runner, replace, self._folder / STATUS, json.dumps(status, indent=1))

    def _append(self, row: Mapping[str, Any]) -> None:
        with (self._folder / METRICS).open('a', encoding='utf-8') as file:
            file.write(json.dumps(row) + '\n')  # flushed as one write

    def _keep_rows(self, runner: Runner, keep: Callable[[dict], bool]) -> None:
        """Drop all other rows of ``metrics.jsonl``: the training repeats them."""
        path, rows = self._folder / METRICS, []
        self._validation, self._best = {}, ({}, -math.inf)
        for line in path.read_text(encoding='utf-8').splitlines() if runner.iter and path.is_file() else ():
            try:
                row = json.loads(line)
                if keep(row):
                    rows.append(line + '\n')
                    if row['split'] == 'val':
                        self._note_validation(runner, row)
            except (ValueError, KeyError, TypeError):
                continue  # cut off by a kill
        replace(path, ''.join(rows))

    def _note_validation(self, runner: Runner, row: dict[str, Any]) -> None:
        """Keep the row of a validation as the last one, and as the best one by ``save_best``."""
        self._validation = {key: value for key, value in row.items() if key != 'split'}
        scores = {key: value for key, value in self._validation.items() if key not in ('epoch', 'iter')}
        score = save_best_score(runner, scores)
        if score > self._best[1]:
            self._best = self._validation, score

    def _guarded(self, runner: Runner, write: Any, *args: Any) -> None:
        if self._folder is None:
            return
        try:
            write(*args)
        except OSError as error:
            self._folder = None
            runner.logger.warning(f'{STATUS} and {METRICS} are not written any more, the run continues: {error}')


def latest(runner: Runner) -> dict[str, float | None]:
    """Return the numbers of the last line of the training log, by their names in it."""
    window, found = runner.log_processor.window_size, {}
    for name, buffer in runner.message_hub.log_scalars.items():
        if name.startswith('train/') and len(buffer.data[0]):
            key = name.removeprefix('train/')
            found[key] = buffer.mean(window) if any(part in key for part in MEANS) else buffer.current()
    return numbers(found)


def numbers(values: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the single numbers among some values, None for those that are not finite: JSON has no NaN."""
    found = {}
    for key, value in values.items():
        try:
            found[key] = float(f'{float(value):.6g}') if math.isfinite(float(value)) else None
        except (TypeError, ValueError):
            continue
    return found


def note(values: Mapping[str, float | None], eta: float | None) -> str:
    """Return the line below the bar: the time left, losses, learning rate, speed, data share and memory."""
    parts = [] if eta is None else [f'ETA {timedelta(seconds=round(eta))}']
    losses = sorted((key for key in values if 'loss' in key), key=lambda key: (key != 'loss', key))
    parts += [f'{key} {values[key]:.4g}' for key in losses if values[key] is not None]
    forms = {'lr': 'lr {:.3g}', 'images_per_second': '{:.1f} images/s', 'data_share': 'data {:.0%}'}
    forms['memory'] = '{:.0f} MB'
    parts += [form.format(values[key]) for key, form in forms.items() if values.get(key) is not None]
    return '  '.join(parts)


def replace(path: Path, text: str) -> None:
    """Write a file that other processes see whole, before or after."""
    temporary = path.with_name(f'{path.name}.tmp')
    temporary.write_text(text, encoding='utf-8')
    os.replace(temporary, path)


@contextmanager
def watched(runner: Runner) -> Iterator[None]:
    """Let the progress hook of a runner, if there is one, write how the training ends."""
    hook = next((hook for hook in runner.hooks if isinstance(hook, ProgressHook)), None)
    if hook is None:
        yield
    else:
        with hook.watch(runner):
            yield
