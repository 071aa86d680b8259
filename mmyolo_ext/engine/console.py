"""What a run shows on the screen: warnings, a short summary, progress. The log file holds every line in full."""

import logging
import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.runner import Runner

from mmyolo_ext import progress
from mmyolo_ext.engine.fit_checks import unwrapped

# Functions of the host whose lines only the log file holds: (module, function), None for all of its functions
LOG_FILE_ONLY = {
    *(('runner', '__init__'), ('runner', '_log_env'), ('runner', 'wrap_model')),  # hooks, environment, config, SyncBN
    *(('faster_coco_metric', None), ('coco_metric', None)),  # steps, the table of classes, scores for spreadsheets
}
# beginnings of lines that repeat what another line says
REPEATED = (
    *('Exp name: ', 'Saving checkpoint at ', 'Checkpoints will be saved to '),
    *('Load checkpoint from ', 'Loads checkpoint by '),
)
INSIDE_EPOCH = r'(?:Epoch|Iter)\((?:train|val|test)\) +(?:\[ *\d+\])?\[ *(\d+)/ *(\d+)\]'
FIRST_LINE_ONLY = ('Training ',)  # the table of parameter groups follows
SCORES = {
    **{'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75'},
    **{'bbox_mAP_s': 'small', 'bbox_mAP_m': 'medium', 'bbox_mAP_l': 'large'},
}


class ConsoleFilter(logging.Filter):
    """Keep lines for the log file from the screen; warnings and lines of this package pass.

    Attributes:
        bars: Whether a progress bar shows what the lines inside of an epoch do.
    """

    bars = False

    def filter(self, record: logging.LogRecord) -> bool:
        host = 'mmengine' in record.pathname or 'mmdet' in record.pathname
        hidden = host and LOG_FILE_ONLY & {(record.module, record.funcName), (record.module, None)}
        if self.bars and (found := re.match(INSIDE_EPOCH, record.getMessage())):
            hidden = hidden or found[1] != found[2]
        return record.levelno != logging.INFO or not (hidden or record.getMessage().startswith(REPEATED))


class ConsoleFormatter(logging.Formatter):
    """Write ``11/29 03:21:54  TEXT``, with scores as one table; anything but information as before.

    Args:
        before: Formatter of warnings and errors.
    """

    def __init__(self, before: logging.Formatter) -> None:
        super().__init__()
        self.before = before

    def format(self, record: logging.LogRecord) -> str:
        if record.levelno != logging.INFO:
            return self.before.format(record)
        return f'{datetime.fromtimestamp(record.created):%m/%d %H:%M:%S}  {short(record.getMessage())}'


def quieten(logger: MMLogger) -> None:
    """Show on the screen what a user reads; with ``log_level = 'DEBUG'``, everything."""
    for handler in logger.handlers:
        on_screen = isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler)
        if on_screen and handler.level > logging.DEBUG and not isinstance(handler.formatter, ConsoleFormatter):
            handler.addFilter(ConsoleFilter())
            handler.setFormatter(ConsoleFormatter(handler.formatter))


class Display:
    """A progress bar at the bottom of a terminal, with a line of numbers below it; lines of the log appear above.

    No thread redraws it, because loaders fork workers: :meth:`update` does, at most ``progress.RATE`` times a second.
    """

    def __init__(self, logger: logging.Logger) -> None:
        from rich.progress import Progress
        from rich.text import Text

        class Bars(Progress):
            note = ''

            def get_renderables(self):
                yield self.make_tasks_table(self.tasks)
                if self.note:
                    yield Text(self.note, style='dim')

        screen = [handler for handler in logger.handlers if getattr(handler, 'stream', None) is sys.stdout]
        self._handlers = [(handler, handler.stream) for handler in screen]
        self._filters = [f for handler in logger.handlers for f in handler.filters if isinstance(f, ConsoleFilter)]
        self._bars = Bars(*progress.columns(), auto_refresh=False, transient=True)
        self._task, self._total, self._drawn = None, 0, 0.0
        self._bars.start()
        progress.ON_SCREEN[:] = [self._bars]
        for handler, _ in self._handlers:
            handler.setStream(sys.stdout)  # Rich has replaced it
        for console_filter in self._filters:
            console_filter.bars = True

    @classmethod
    def on_terminal(cls, logger: logging.Logger) -> 'Display | None':
        """Return a display if standard output is a terminal that can move its cursor, else None."""
        return cls(logger) if progress.is_terminal(sys.stdout) else None

    def begin(self, text: str, total: int, done: int = 0) -> None:
        """Replace the bar by a new one."""
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._total = total
        self._task, self._bars.note = self._bars.add_task(text, total=total, completed=done), ''
        self._bars.refresh()

    def update(self, done: int, note: str = '') -> None:
        """Set the length of the bar and the line below it."""
        now = time.monotonic()
        if done == self._total or now - self._drawn >= 1 / progress.RATE:
            self._drawn, self._bars.note = now, note
            self._bars.update(self._task, completed=done, refresh=True)

    def close(self) -> None:
        """Remove the bar, and give the log its stream back."""
        self._bars.stop()
        progress.ON_SCREEN.clear()
        for handler, stream in self._handlers:
            handler.setStream(stream)
        for console_filter in self._filters:
            console_filter.bars = False


def short(message: str) -> str:
    """Return a line of the log as the screen shows it.

    Lines of validations and tests become a table of AP at IoU 0.50:0.95, 0.50, 0.75 and by size of boxes, without the
    scores of classes; those of training lose the shares of the losses.
    """
    if message.startswith(FIRST_LINE_ONLY):
        return message.partition('\n')[0]
    found = re.match(r'(?:Epoch|Iter)\((train|val|test)\) ', message)
    if not found:
        return message
    head, *items = re.split(r' {2,}', message.rstrip())
    shown, scores = [], {}
    for item in items:
        name, _, value = item.rpartition(': ')
        key = name.rpartition('/')[2]
        if found[1] != 'train' and key in SCORES:
            scores[SCORES[key]] = '-' if float(value) < 0 else value
        elif not key.endswith('_precision') and not key.startswith(('share_', 'data_time')):
            shown.append(re.sub(r'^base_lr: \S+ (?=lr: )', '', item))
    lines = ['  '.join([head, *shown])]
    if scores:
        lines += [f'  {"".join(f"{cell:>9}" for cell in row)}'.rstrip() for row in (scores, scores.values())]
    return '\n'.join(lines)


def describe_start(runner: Runner) -> str:
    """Return what is trained and where its files are."""
    model = unwrapped(runner.model)
    parts = [type(getattr(model, name)).__name__ for name in ('backbone', 'neck', 'bbox_head') if hasattr(model, name)]
    count = sum(parameter.numel() for parameter in model.parameters())
    name = Path(runner.cfg.filename).stem if runner.cfg.filename else type(model).__name__
    log = getattr(runner.logger, 'log_file', None) or runner.log_dir
    return (
        f'Model {name}: {", ".join(parts) or type(model).__name__}; {count:,} parameters, {get_device()}\n'
        f'Work dir {runner.work_dir}; the config and the environment are in {log}'
    )


@contextmanager
def without_stderr() -> Iterator[None]:
    """Drop what the programs started in the block write to standard error."""
    try:
        before = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        with open(os.devnull, 'wb') as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)
