"""What a run shows on the screen: warnings, a short summary, progress. The log file holds every line in full."""

import logging
import re
from datetime import datetime
from pathlib import Path

from mmengine.device import get_device
from mmengine.logging import MMLogger
from mmengine.runner import Runner

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
FIRST_LINE_ONLY = ('Training ',)  # the table of parameter groups follows
SCORES = {
    **{'bbox_mAP': 'AP', 'bbox_mAP_50': 'AP50', 'bbox_mAP_75': 'AP75'},
    **{'bbox_mAP_s': 'small', 'bbox_mAP_m': 'medium', 'bbox_mAP_l': 'large'},
}


class ConsoleFilter(logging.Filter):
    """Keep lines for the log file from the screen; warnings and lines of this package pass."""

    def filter(self, record: logging.LogRecord) -> bool:
        host = 'mmengine' in record.pathname or 'mmdet' in record.pathname
        hidden = host and LOG_FILE_ONLY & {(record.module, record.funcName), (record.module, None)}
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
