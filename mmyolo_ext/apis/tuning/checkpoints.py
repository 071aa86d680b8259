"""Checkpoints of a search's trainings: one to go on from, and of all that have ended the best alone."""

import re
from collections.abc import Container
from contextlib import suppress
from pathlib import Path

from mmengine.config import Config

from mmyolo_ext.apis.files import check_checkpoint
from mmyolo_ext.apis.tuning.memory import Run

LAST = 'last_checkpoint'  # in which MMEngine keeps the name of the one to resume from
NUMBER = re.compile(r'_(\d+)\.pth$')


def make_resumable(folder: Path, cfg: Config, validated: Container[int]) -> None:
    """Let the training in ``folder`` go on where nothing is lost: from the newest checkpoint that is whole.

    One that was killed while writing leaves part of a checkpoint. One that was killed between a checkpoint and the
    validation after it would never validate there, for MMEngine goes on with the next epoch; so the checkpoint before
    is taken. Where none is left the training starts anew.

    Args:
        folder: work dir of the training.
        cfg: its config.
        validated: epochs, or iterations, of which there is a score.
    """
    for number, file in sorted(_numbered(folder, ('epoch', 'iter')), reverse=True):
        if _validates_at(cfg.train_cfg, number) and number not in validated:
            continue
        with suppress(ValueError):
            check_checkpoint(str(file))
            (folder / LAST).write_text(str(file))
            return
    (folder / LAST).unlink(missing_ok=True)


def keep_the_best(folders: dict[Path, Run], best: Run | None) -> None:
    """Delete checkpoints of runs that have ended: of the best run only its best is kept, of others none.

    Args:
        folders: work dirs of runs, and the runs.
        best: of the runs that were trained to their end.
    """
    for folder, run in folders.items():
        if run.state in ('done', 'pruned', 'failed'):
            kept = _best_file(folder, run) if run is best else None
            for file in folder.glob('*.pth'):
                if file != kept:
                    file.unlink()
            (folder / LAST).unlink(missing_ok=True)


def _best_file(folder: Path, run: Run) -> Path | None:
    """That of the best validation; where the config saves none of its own, the last one."""
    files = dict(_numbered(folder, ('best',))) or dict(_numbered(folder, ('epoch', 'iter')))
    steps = [step for step, score in run.curve.items() if score == run.score]
    return next((files[step] for step in steps if step in files), files[max(files)] if files else None)


def _numbered(folder: Path, starts: tuple[str, ...]) -> list[tuple[int, Path]]:
    found = [(NUMBER.search(file.name), file) for file in folder.glob('*.pth')]
    return [(int(match[1]), file) for match, file in found if match and file.name.startswith(starts)]


def _validates_at(loop: dict, number: int) -> bool:
    """As MMEngine's loops do."""
    interval = loop.get('val_interval', 1 if 'max_epochs' in loop else 1000)
    for start, changed in loop.get('dynamic_intervals') or ():
        interval = changed if number + 1 >= start else interval
    last = loop.get('max_epochs') or loop.get('max_iters')
    return number >= loop.get('val_begin', 1) and (number % interval == 0 or number == last)
